// ---- map: one canvas pixel per cell, stretched by the style sheet; drawn when it comes into sight

const map = { columns: [], rows: [], width: 1, height: 1, x: 0, y: 0, stale: true, labels: null };

function heat() {
  map.stale = true;
  $("map").hidden = !visible.length;
  const { top, bottom } = $("heat").getBoundingClientRect();
  if (visible.length && bottom > -400 && top < innerHeight + 400) drawHeat();
}

function drawHeat() {
  if (!map.stale || !visible.length) return;
  map.stale = false;
  const { view } = state;
  const canvas = $("heat"), context = canvas.getContext("2d");
  const strongest = (q) => Math.max(...view.scores[q].map(Math.abs)) || 1;
  map.rows = ranked(view.summary.map((group) => group.mean));
  const place = new Map(map.rows.map((g, i) => [g, i]));
  map.columns = [...visible].sort((a, b) => place.get(topOf(a)) - place.get(topOf(b))
    || view.scores[b][topOf(b)] - view.scores[a][topOf(a)]);
  $("cursor").hidden = true;
  $("map-cell").textContent = "";

  const labelled = groups.length <= 40;
  map.height = labelled ? 22 : Math.max(9, Math.floor(880 / groups.length));
  if (map.labels !== view) {
    map.labels = view;
    $("map-labels").replaceChildren(...map.rows.map((g) => {
      const label = el("div", { title: groups[g] }, groups[g]);
      label.style.height = `${map.height}px`;
      label.style.fontSize = labelled ? "" : `${map.height - 1}px`;
      label.style.lineHeight = `${map.height}px`;
      return label;
    }));
  }
  map.width = Math.min(40, Math.max(3, canvas.parentElement.clientWidth / map.columns.length));

  canvas.width = map.columns.length;
  canvas.height = map.rows.length;
  canvas.style.width = `${map.columns.length * map.width}px`;
  canvas.style.height = `${map.rows.length * map.height}px`;
  canvas.setAttribute("aria-label", `Heat map of ${map.columns.length} queries and ${map.rows.length} groups`);
  const rescale = $("rescale").checked;
  const [zero, plus, below] = ["--track", "--positive", "--negative"].map(color);
  const image = context.createImageData(canvas.width, canvas.height);
  map.columns.forEach((q, x) => {
    const full = rescale ? strongest(q) : view.limit;
    map.rows.forEach((g, y) => {
      const value = Math.max(-1, Math.min(1, view.scores[q][g] / full));
      const pole = value < 0 ? below : plus;
      const at = 4 * (y * canvas.width + x);
      for (let c = 0; c < 3; c++) image.data[at + c] = zero[c] + Math.abs(value) * (pole[c] - zero[c]);
      image.data[at + 3] = 255;
    });
  });
  context.putImageData(image, 0, 0);
  const limit = Number(view.limit.toPrecision(2));
  $("map-low").textContent = rescale ? "−1" : minus(String(-limit));
  $("map-high").textContent = rescale ? "1 × strongest" : `${limit} and more`;
}

/** A custom property as red, green, blue: the browser resolves light-dark() and paints the pixel. */
function color(property) {
  const probe = el("span");
  probe.style.color = `var(${property})`;
  document.body.append(probe);
  const canvas = el("canvas", { width: 1, height: 1 });
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(probe).color;
  context.fillRect(0, 0, 1, 1);
  probe.remove();
  return context.getImageData(0, 0, 1, 1).data;
}

function point(x, y, scroll = false) {
  drawHeat();
  map.x = Math.max(0, Math.min(map.columns.length - 1, x));
  map.y = Math.max(0, Math.min(map.rows.length - 1, y));
  const q = map.columns[map.x], g = map.rows[map.y], cursor = $("cursor");
  cursor.hidden = false;
  cursor.style.left = `${map.x * map.width}px`;
  cursor.style.top = `${map.y * map.height}px`;
  cursor.style.width = `${map.width}px`;
  cursor.style.height = `${map.height}px`;
  if (scroll) cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
  $("map-cell").textContent =
    `${queries[q]} · ${groups[g]}: ${withError(state.view.scores[q][g], state.view.stderr[q][g])}`;
}

function pointAt(event) {
  point(Math.floor(event.offsetX / map.width), Math.floor(event.offsetY / map.height));
}

const redraw = () => { map.stale = true; heat(); };
new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) drawHeat(); }, { rootMargin: "400px" })
  .observe($("map"));
$("rescale").addEventListener("change", redraw);
$("heat").addEventListener("pointermove", pointAt);
$("heat").addEventListener("click", (event) => { pointAt(event); open(map.columns[map.x]); });
$("heat").addEventListener("focus", () => { if ($("cursor").hidden) point(map.x, map.y); });
$("heat").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === "Enter") open(map.columns[map.x]);
  else if (moves[event.key]) point(map.x + moves[event.key][0], map.y + moves[event.key][1], true);
  else return;
  event.preventDefault();
});
let resized;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(redraw, 120); });

// ---- drawings

const short = (value) => minus(String(Number(value.toPrecision(3))));

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---- influence while unlearning

const CURVES = 24;  // before the rest is asked for
let curvesOf = null;

function curveGrid(limit = CURVES) {
  const { curves } = tables[state.view.table];
  if (!$("curves") || (curvesOf === curves && limit === CURVES)) return;
  curvesOf = curves;
  $("curves").hidden = !curves.length;
  const values = curves.flatMap(({ points }) => points.flatMap(([, own, other]) => [own, other]));
  const low = Math.min(0, ...values), high = Math.max(0, ...values), width = 200, height = 84;
  const y = (value) => height - height * (value - low) / (high - low || 1);
  $("curve-grid").replaceChildren(...curves.slice(0, limit).map(({ group, points }) => {
    const last = points[points.length - 1];
    const first = points[0][0], span = last[0] - first || 1;
    const line = (column, kind) => svg("polyline", { class: kind,
      points: points.map((p) => `${(width * (p[0] - first) / span).toFixed(1)},${y(p[column]).toFixed(1)}`).join(" ") });
    const label = `${group}: after ${last[0]} steps ${short(last[1])} on its own images and ${short(last[2])} on others`;
    return el("figure", {}, el("figcaption", { title: group }, group, el("span", { class: "note" }, ` ${last[0]} steps`)),
      svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
        svg("line", { class: "axis", x1: 0, x2: width, y1: y(0), y2: y(0) }), line(2, "other"), line(1, "own")),
      el("p", { class: "note", "aria-hidden": "true" }, `own ${short(last[1])}, others ${short(last[2])}`));
  }));
  const rest = curves.length - limit;
  $("more-curves").hidden = rest <= 0;
  $("more-curves").textContent = `Show the other ${rest}`;
}

$("more-curves")?.addEventListener("click", () => curveGrid(Infinity));

// ---- pictures with and without groups

function outline() {
  for (const cell of document.querySelectorAll("#without td[data-group]")) {
    cell.classList.toggle("top", topOf(Number(cell.dataset.query)) === Number(cell.dataset.group));
  }
}
