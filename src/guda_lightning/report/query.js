// ---- which part of a query came from which group: one pixel per position, stretched by the style sheet

function spatial(q) {
  const map = tables[state.view.table].maps[q];
  if (!map) return [];
  const part = (share, where) => `${percent(share)} of the picture, ${where}`;
  const text = map.led.map(([g, , share, where]) => `${groups[g]} ${part(share, where)}`).join("; ");
  const legend = map.led.map(([g, colour, share, where]) => {
    const key = el("i", { "aria-hidden": "true" });
    key.style.background = colour;
    return el("li", {}, key, el("span", { class: "name", title: groups[g] }, groups[g]),
      el("span", { class: "note" }, part(share, where)));
  });
  if (map.more) legend.push(el("li", { class: "note" }, `and ${map.more} more`));
  return [el("figure", { class: "spatial" },
    el("div", {}, picture(data.pictures[q], ""), picture(map.image, `Leading groups of query ${queries[q]}: ${text}`)),
    el("figcaption", {}, "The group with the largest share of the patch around each pixel; the stronger, the larger.",
      el("ul", { class: "plain" }, ...legend)))];
}

// ---- the training images of the top group that look most like a query

function nearest(q) {
  const kept = tables[state.view.table].nearest, top = topOf(q);
  const found = kept?.found[`${q},${top}`];
  if (!found) return [];
  return [el("h3", {}, term("nearest", "Nearest training images"), ` of ${groups[top]}`),
    el("div", { class: "nearest" }, ...found.map(([image, distance]) => el("figure", {},
      picture(kept.images[image], `Training image ${kept.names[image]}`),
      el("figcaption", { title: kept.names[image] }, kept.names[image],
        el("small", {}, `mean squared difference ${distance}`)))))];
}

// ---- at which noise levels its scores come about

function noiseLevels(q) {
  const { levels, unit } = state.view;
  const rows = levels?.queries[q];
  if (!rows) return [];
  const values = rows.flatMap(([, added]) => added);
  const low = Math.min(0, ...values), high = Math.max(0, ...values), span = high - low || 1, height = 44;
  const named = levels.bands.map(([first, last]) => `${first} to ${last}`);
  return [el("h3", {}, "By ", term("levels", "noise level")),
    el("div", { class: "levels" }, ...rows.map(([g, added]) => {
      const told = added.map((value, i) => `${short(value)} at ${named[i]}`).join(", ");
      const width = 100 / added.length;
      const bars = added.map((value, i) => svg("rect", { class: value < 0 ? "minus" : "plus", x: i * width + 0.5, width: width - 1,
        y: height * (high - Math.max(0, value)) / span, height: height * Math.abs(value) / span },
      svg("title", {}, document.createTextNode(`t ${named[i]}: ${short(value)} ${unit.symbol}`))));
      const zero = height * high / span;
      return el("figure", {}, el("figcaption", {}, groups[g]),
        svg("svg", { viewBox: `0 0 100 ${height}`, preserveAspectRatio: "none", role: "img",
          "aria-label": `${groups[g]} by timesteps: ${told}` }, ...bars,
        svg("line", { class: "axis", x1: 0, x2: 100, y1: zero, y2: zero })));
    })),
    el("p", { class: "note" }, `What timesteps add to a score, from little noise (left, t = ${levels.bands[0][0]}) to much noise `
      + `(right, t = ${levels.bands.at(-1)[1]} of ${levels.last}); one scale for all, largest ${short(Math.max(...values.map(Math.abs)))} ${unit.symbol}`.trim() + ".")];
}

// ---- what other methods say of a query

function methods(q) {
  const others = choices();
  if (others.length < 2) return [];
  const top = topOf(q);
  const body = others.map(({ shown, label }) => {
    const best = ranked(shown.scores[q]).slice(0, 3);
    const cells = best.map((g) => el("td", { class: g === top ? "same" : "" },
      groups[g], el("small", {}, withError(shown.scores[q][g], shown.stderr[q][g], shown))));
    return el("tr", {}, el("th", { scope: "row", title: label, "aria-current": shown === state.view ? "true" : null },
      label, el("small", {}, shown.label)), ...cells);
  });
  const heads = ["scores", "first", "second", "third"].slice(0, 1 + Math.min(3, groups.length));
  return [el("h3", {}, "Methods beside each other"),
    el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Top groups by every method" }, el("table", {},
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...body))),
    el("p", { class: "note" }, `Bold: ${groups[top]}, the top group of the scores shown. Units differ between methods.`)];
}

// ---- one query

let opened = 0;

function open(q) {
  opened = q;
  const { scores, stderr, standing, unit } = state.view;
  const order = ranked(scores[q]);
  const low = Math.min(0, ...scores[q].map((s, g) => s - 1.96 * stderr[q][g]));
  const high = Math.max(0, ...scores[q].map((s, g) => s + 1.96 * stderr[q][g]));
  $("detail-title").textContent = queries[q];
  $("detail-prompt").textContent = report.prompts[q] ?? "";
  $("detail-picture").replaceChildren(picture(data.pictures[q], `Query ${queries[q]}`), ...spatial(q));
  $("detail-standing").className = `standing ${standing.level}`;
  $("detail-standing").textContent = standing.headline;
  $("detail-verdict").replaceChildren(...verdict(q, order));
  $("detail-groups").replaceChildren(...order.map((g) => {
    const examples = el("span", { class: "examples" },
      ...data.examples[g].slice(0, 3).map((source, i) => picture(source, `Training image ${i + 1} of ${groups[g]}`)));
    return el("li", { class: "row" }, ...row(g, scores[q][g], stderr[q][g], low, high, { pictures: examples, covers: unit.covers }));
  }));
  $("detail-nearest").replaceChildren(...nearest(q));
  $("detail-levels").replaceChildren(...noiseLevels(q));
  $("detail-methods").replaceChildren(...methods(q));
  const place = visible.indexOf(q);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place === visible.length - 1;
  if (!$("detail").open) $("detail").showModal();
  $("detail").scrollTop = 0;
  const { table, method, weighting } = state.view;
  const link = new URLSearchParams({ query: queries[q], table: report.tables[table].name, method, weighting });
  $("detail-link").href = `#${link}`;
  history.replaceState(null, "", `#${link}`);
}

function verdict(q, order) {
  const { unclear } = state.view.standing, lead = margin(q), first = groups[order[0]];
  if (order.length < 2) return [`Group ${first} has the highest score.`];
  if (unclear) return [`Group ${first} has the highest score, but none is called clear: ${unclear}.`];
  if (lead === Infinity) return [`Group ${first} has the highest score.`];
  return [`${undecided(q) ? "Undecided: group" : "Group"} ${first} stands ${lead.toFixed(lead < 10 ? 2 : 0)} `,
    term("lead", "combined standard errors"), ` above group ${groups[order[1]]}.`];
}

function step(by) {
  const next = visible[visible.indexOf(opened) + by];
  if (next !== undefined) open(next);
}

/** Open what a link such as #query=NAME names. */
function follow() {
  const link = new URLSearchParams(location.hash.slice(1)), q = queries.indexOf(link.get("query"));
  if (q < 0) return;
  const of = views.filter((view) => report.tables[view.table].name === link.get("table"));
  const own = of.filter((view) => view.method === link.get("method")), named = own.length ? own : of;
  const view = named.find((one) => one.weighting === link.get("weighting")) ?? named[0] ?? state.view;
  if (view !== state.view) turnTo(view);
  open(q);
}

addEventListener("hashchange", follow);
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
$("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
