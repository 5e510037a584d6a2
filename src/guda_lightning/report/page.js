"use strict";
// Everything shown comes from the JSON in the page and reaches it as text only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const { groups, queries, views, curves } = data;
const CARDS = 48, CURVES = 24;  // added at a time

const state = { view: views[0], group: null, find: "", show: "all", sort: "given", cards: CARDS };
let visible = [];  // indices of the queries that pass the filters, in the chosen order
const $ = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// ---- numbers

const minus = (text) => text.replaceAll("-", "−");

/** A score and its standard error, to the two digits that the error leaves. */
function parts(value, error) {
  if (!(error > 0)) return [minus(String(Number(value.toPrecision(3)))), ""];
  const decimals = Math.max(0, 1 - Math.floor(Math.log10(error)));
  if (decimals > 6) return [minus(value.toExponential(2)), "± " + minus(error.toExponential(1))];
  return [minus(value.toFixed(decimals)), "± " + error.toFixed(decimals)];
}
const withError = (value, error) => [...parts(value, error), state.view.symbol].filter(Boolean).join(" ");
const seedsOf = (view) => `seed${view.seeds.length > 1 ? "s" : ""} ${view.seeds.join(", ")}`;
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

const ranked = (scores) => scores.map((_, g) => g).sort((a, b) => scores[b] - scores[a] || a - b);
const topOf = (query) => state.view.top[query];
const margin = (query) => state.view.margins[query] ?? Infinity;
const undecided = (query) => margin(query) < data.undecidedBelow;
const badge = (text) => el("span", { class: "badge" }, text);

for (const view of views) view.top = view.scores.map((row) => row.indexOf(Math.max(...row)));

// ---- pieces

function picture(source, alt, kind = "") {
  if (!source) return el("span", { class: `none ${kind}`, "aria-hidden": "true" });
  return el("img", { src: source, alt, class: kind, loading: "lazy" });
}

/** A bar from zero to the value with a thin interval, on a track from low to high (both include zero). */
function bar(value, error, low, high) {
  const at = (x) => 100 * Math.min(1, Math.max(0, (x - low) / (high - low || 1)));
  const span = (node, from, to) => {
    node.style.left = `${at(from)}%`;
    node.style.width = `${at(to) - at(from)}%`;
    return node;
  };
  const track = el("span", { class: "bar", "aria-hidden": "true" });
  track.append(span(el("i", { class: value < 0 ? "minus" : "" }), Math.min(0, value), Math.max(0, value)));
  if (error > 0) track.append(span(el("b"), value - 1.96 * error, value + 1.96 * error));
  if (low < 0) {
    const zero = el("u");
    zero.style.left = `${at(0)}%`;
    track.append(zero);
  }
  return track;
}

function mark(verdict) {
  if (!verdict || verdict.grade === "valid") return [];
  return [" ", el("small", { class: verdict.grade, title: verdict.reason }, verdict.grade)];
}

function row(group, value, error, low, high, { extra = null, pictures = null, covers = "" } = {}) {
  const { symbol } = state.view;
  const [number, plusMinus] = parts(value, error);
  const rest = [plusMinus, symbol, plusMinus && covers ? `(±: ${covers})` : ""].filter(Boolean);
  return [
    pictures ?? picture(groups[group].examples[0], ""),
    el("span", {},
      el("span", { class: "line" },
        el("span", { class: "name", title: groups[group].name }, groups[group].name, ...mark(state.view.verdicts[group])),
        el("span", { class: "number" },
          el("span", { class: "score" }, number),
          el("span", { class: "error" }, rest.map((part) => ` ${part}`).join("")))),
      bar(value, error, low, high), extra),
  ];
}

// ---- header

function controls() {
  const box = $("views");
  const choice = (view) => `${view.method}, ${seedsOf(view)}`;
  const methods = [...new Set(views.map(choice))];
  const pick = (method, weighting) => {
    const candidates = views.filter((view) => choice(view) === method);
    state.view = candidates.find((view) => view.weighting === weighting) ?? candidates[0];
    controls();
    render();
  };
  const now = choice(state.view);
  box.replaceChildren();
  if (methods.length > 1) {
    const select = el("select", { id: "method", onchange: () => pick(select.value, state.view.weighting) },
      ...methods.map((name) => el("option", { value: name, selected: name === now }, name)));
    box.append(el("label", { class: "note" }, "Method ", select));
  }
  const weightings = views.filter((view) => choice(view) === now);
  if (weightings.length > 1) {
    const options = weightings.map((view) => el("label", {},
      el("input", { type: "radio", name: "weighting", value: view.weighting, checked: view === state.view,
        onchange: () => { pick(now, view.weighting); box.querySelector(":checked").focus(); } }),
      view.label));
    box.append(el("fieldset", {}, el("legend", {}, "Weighting"), el("span", { class: "segments" }, ...options)));
  }
}

function finding() {
  const { summary } = state.view;
  const all = queries.map((_, q) => q);
  const clear = all.filter((q) => !undecided(q)).length;
  const leader = ranked(summary.map((group) => group.top))[0];
  const strong = (text) => el("b", {}, text);
  const { mean, stderr, top } = summary[leader];
  $("finding").replaceChildren(
    strong(`${clear} of ${queries.length}`), ` ${queries.length === 1 ? "query has" : "queries have"} a clear top group`,
    queries.length > clear ? `, ${queries.length - clear} ${queries.length - clear === 1 ? "is" : "are"} undecided. ` : ". ",
    "Group ", strong(groups[leader].name), ` leads most often: ${top} of ${queries.length} (${percent(top / queries.length)}), mean score ${withError(mean, stderr)}.`,
  );
  const { unit, covers, method } = state.view;
  const errors = covers ? ` ± of a score: ${covers}; of a mean: differences between queries as well.` : "";
  $("unit").textContent = `Unit: ${unit}.${errors} Method ${method}, ${seedsOf(state.view)}.`;
  const shown = String(views.indexOf(state.view));
  for (const node of document.querySelectorAll("header [data-view]")) node.hidden = node.dataset.view !== shown;
  $("weighting-note").textContent = state.view.note;
}

// ---- groups

function groupList() {
  const { summary } = state.view;
  const low = Math.min(0, ...summary.map((group) => group.mean - 1.96 * group.stderr));
  const high = Math.max(0, ...summary.map((group) => group.mean + 1.96 * group.stderr));
  const order = ranked(summary.map((group) => group.mean));
  const focused = document.activeElement?.dataset?.group;
  $("groups").replaceChildren(...order.map((g) => {
    const { mean, stderr, top } = summary[g];
    const led = el("span", { class: "led" }, `leads ${top} of ${queries.length} · ${percent(top / queries.length)}`);
    return el("li", {}, el("button", {
      type: "button", class: "row", "data-group": g, "aria-pressed": String(state.group === g), onclick: () => choose(g),
    }, ...row(g, mean, stderr, low, high, { extra: led })));
  }));
  if (focused !== undefined) $("groups").querySelector(`[data-group="${focused}"]`)?.focus({ preventScroll: true });
}

function choose(group) {
  state.group = state.group === group ? null : group;
  state.cards = CARDS;
  render();
}

// ---- queries

function select() {
  const wanted = state.find.trim().toLowerCase();
  visible = queries.map((_, q) => q).filter((q) =>
    (state.group === null || topOf(q) === state.group)
    && (state.show === "all" || undecided(q) === (state.show === "undecided"))
    && `${queries[q].id} ${queries[q].prompt ?? ""}`.toLowerCase().includes(wanted));
  const score = (q) => state.view.scores[q][topOf(q)];
  const orders = {
    score: (a, b) => score(b) - score(a),
    margin: (a, b) => (margin(a) === margin(b) ? 0 : margin(b) - margin(a)),
    name: (a, b) => queries[a].id.localeCompare(queries[b].id, undefined, { numeric: true }),
  };
  if (orders[state.sort]) visible.sort(orders[state.sort]);
}

function card(q) {
  const { scores, stderr } = state.view;
  const best = ranked(scores[q]).slice(0, 3);
  const low = Math.min(0, ...best.map((g) => scores[q][g] - 1.96 * stderr[q][g]));
  const high = Math.max(0, ...best.map((g) => scores[q][g] + 1.96 * stderr[q][g]));
  const rows = best.map((g) => el("span", { class: "row" }, ...row(g, scores[q][g], stderr[q][g], low, high)));
  return el("li", { class: undecided(q) ? "undecided" : "" }, el("button", { type: "button", onclick: () => open(q) },
    picture(queries[q].image, `Query ${queries[q].id}`, "picture"),
    el("span", {},
      el("span", { class: "id" }, el("span", { title: queries[q].id }, queries[q].id),
        state.view.unattributable[q] ? badge("not attributable") : null,
        undecided(q) ? badge("undecided") : null),
      queries[q].prompt ? el("span", { class: "prompt", title: queries[q].prompt }, queries[q].prompt) : null,
      el("span", {}, ...rows))));
}

function cards() {
  const shown = visible.slice(0, state.cards);
  $("cards").replaceChildren(...shown.map(card));
  $("count").textContent = shown.length < visible.length
    ? `${shown.length} of ${visible.length} shown` : `${visible.length} of ${queries.length}`;
  const rest = visible.length - shown.length;
  $("more").hidden = rest <= 0;
  $("more").textContent = `Show ${Math.min(rest, CARDS)} more`;
  $("clear").hidden = state.group === null;
  if (state.group !== null) $("clear").textContent = `led by ${groups[state.group].name} ✕`;
}

// ---- which part of a query came from which group: one pixel per position, stretched by the style sheet

function spatial(q) {
  const map = data.maps[q];
  if (!map) return [];
  const part = (share, where) => `${percent(share)} of the picture, ${where}`;
  const text = map.led.map(([g, , share, where]) => `${groups[g].name} ${part(share, where)}`).join("; ");
  const legend = map.led.map(([g, colour, share, where]) => {
    const key = el("i", { "aria-hidden": "true" });
    key.style.background = colour;
    return el("li", {}, key, el("span", { class: "name", title: groups[g].name }, groups[g].name),
      el("span", { class: "note" }, part(share, where)));
  });
  if (map.more) legend.push(el("li", { class: "note" }, `and ${map.more} more`));
  return [el("figure", { class: "spatial" },
    el("div", {}, picture(queries[q].image, ""), picture(map.image, `Leading groups of query ${queries[q].id}: ${text}`)),
    el("figcaption", {}, "The group with the largest share of the patch around each pixel; the stronger, the larger.",
      el("ul", { class: "plain" }, ...legend)))];
}

// ---- one query

let opened = 0;

function open(q) {
  opened = q;
  const { scores, stderr } = state.view;
  const order = ranked(scores[q]);
  const low = Math.min(0, ...scores[q].map((s, g) => s - 1.96 * stderr[q][g]));
  const high = Math.max(0, ...scores[q].map((s, g) => s + 1.96 * stderr[q][g]));
  const lead = margin(q);
  $("detail-title").textContent = queries[q].id;
  $("detail-prompt").textContent = queries[q].prompt ?? "";
  $("detail-picture").replaceChildren(picture(queries[q].image, `Query ${queries[q].id}`), ...spatial(q));
  $("detail-verdict").textContent = order.length < 2 || lead === Infinity
    ? `Group ${groups[order[0]].name} has the highest score.`
    : `${undecided(q) ? "Undecided: group" : "Group"} ${groups[order[0]].name} stands ${lead.toFixed(lead < 10 ? 2 : 0)} `
      + `combined standard errors above group ${groups[order[1]].name}.`;
  $("detail-groups").replaceChildren(...order.map((g) => {
    const examples = el("span", { class: "examples" },
      ...groups[g].examples.slice(0, 3).map((source, i) => picture(source, `Training image ${i + 1} of ${groups[g].name}`)));
    return el("li", { class: "row" }, ...row(g, scores[q][g], stderr[q][g], low, high, { pictures: examples, covers: state.view.covers }));
  }));
  const place = visible.indexOf(q);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place === visible.length - 1;
  if (!$("detail").open) $("detail").showModal();
  $("detail").scrollTop = 0;
}

function step(by) {
  const next = visible[visible.indexOf(opened) + by];
  if (next !== undefined) open(next);
}

// ---- map: one canvas pixel per cell, stretched by the style sheet

const map = { columns: [], rows: [], width: 1, height: 1, x: 0, y: 0 };

function heat() {
  const { view } = state;
  const canvas = $("heat"), context = canvas.getContext("2d");
  const strongest = (q) => Math.max(...view.scores[q].map(Math.abs)) || 1;
  map.rows = ranked(view.summary.map((group) => group.mean));
  const place = new Map(map.rows.map((g, i) => [g, i]));
  map.columns = [...visible].sort((a, b) => place.get(topOf(a)) - place.get(topOf(b))
    || view.scores[b][topOf(b)] - view.scores[a][topOf(a)]);
  $("map").hidden = !visible.length;
  $("cursor").hidden = true;
  $("map-cell").textContent = "";
  if (!visible.length) return;

  const labelled = groups.length <= 40;
  map.height = labelled ? 22 : Math.max(9, Math.floor(880 / groups.length));
  const labels = map.rows.map((g) => {
    const label = el("div", { title: groups[g].name }, groups[g].name);
    label.style.height = `${map.height}px`;
    label.style.fontSize = labelled ? "" : `${map.height - 1}px`;
    label.style.lineHeight = `${map.height}px`;
    return label;
  });
  $("map-labels").replaceChildren(...labels);
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
    `${queries[q].id} · ${groups[g].name}: ${withError(state.view.scores[q][g], state.view.stderr[q][g])}`;
}

function pointAt(event) {
  point(Math.floor(event.offsetX / map.width), Math.floor(event.offsetY / map.height));
}

// ---- influence while unlearning

function curveGrid(limit) {
  const values = curves.flatMap(({ points }) => points.flatMap(([, own, other]) => [own, other]));
  const low = Math.min(0, ...values), high = Math.max(0, ...values), width = 200, height = 84;
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const short = (value) => minus(String(Number(value.toPrecision(3))));
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

// ---- pictures with and without groups

function outline() {
  for (const cell of document.querySelectorAll("#without td[data-group]")) {
    cell.classList.toggle("top", topOf(Number(cell.dataset.query)) === Number(cell.dataset.group));
  }
}

// ---- events

function render() {
  select();
  finding();
  groupList();
  cards();
  heat();
  outline();
}

const refilter = (change) => (event) => {
  change(event.target.value);
  state.cards = CARDS;
  render();
};
$("find").addEventListener("input", refilter((value) => { state.find = value; }));
$("show").addEventListener("change", refilter((value) => { state.show = value; }));
$("sort").addEventListener("change", refilter((value) => { state.sort = value; }));
$("clear").addEventListener("click", () => { choose(null); $("find").focus(); });
$("more").addEventListener("click", () => {
  const first = state.cards;
  state.cards += CARDS;
  cards();
  $("cards").children[first]?.querySelector("button").focus();
});
$("rescale").addEventListener("change", heat);
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
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
$("theme").addEventListener("click", () => {
  const root = document.documentElement.style;
  const dark = root.colorScheme ? root.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.colorScheme = dark ? "light" : "dark";
  heat();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", heat);
let resized;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(heat, 120); });
document.body.classList.toggle("without-examples", groups.every((group) => !group.examples.length));
if (data.pixelated) document.body.classList.add("pixelated");
if (curves.length) {
  curveGrid(CURVES);
  $("more-curves").addEventListener("click", () => curveGrid(curves.length));
}
controls();
render();
