"use strict";
// Everything shown comes from the JSON in the page and reaches it as text only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const { report, tables } = data;
const { queries, groups } = report;  // names
const views = report.views.map((view, index) => ({ ...view, ...data.views[index], index }));
const CARDS = 48, PRINTED = 200;  // added at a time, and on paper
const LEVELS = { chance: "do not use its order", untested: "untested", tested: "better than chance", yardstick: "yardstick" };

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

/** A word that the glossary explains. */
const term = (key, text) => el("span", { class: "term", tabindex: 0, "aria-describedby": `term-${key}` }, text);

// ---- numbers

const minus = (text) => text.replaceAll("-", "−");

/** A score and its standard error, to the two digits that the error leaves. */
function parts(value, error) {
  if (!(error > 0)) return [minus(String(Number(value.toPrecision(3)))), ""];
  const decimals = Math.max(0, 1 - Math.floor(Math.log10(error)));
  if (decimals > 6) return [minus(value.toExponential(2)), "± " + minus(error.toExponential(1))];
  return [minus(value.toFixed(decimals)), "± " + error.toFixed(decimals)];
}
const withError = (value, error, view = state.view) => [...parts(value, error), view.unit.symbol].filter(Boolean).join(" ");
const seedsOf = (view) => `seed${view.seeds.length > 1 ? "s" : ""} ${view.seeds.join(", ")}`;
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

const ranked = (scores) => scores.map((_, g) => g).sort((a, b) => scores[b] - scores[a] || a - b);
/** The top group of each query, found when a view is first shown. */
const topsOf = (view) => (view.tops ??= view.scores.map((row) => row.indexOf(Math.max(...row))));
const topOf = (query, view = state.view) => topsOf(view)[query];
const margin = (query) => state.view.margins[query] ?? Infinity;
const clearable = () => !state.view.standing.unclear;
const undecided = (query) => clearable() && margin(query) < data.undecidedBelow;
/** Whether the model without the group that leads a query was found invalid. */
const spoiled = (query) => state.view.verdicts[topOf(query)]?.grade === "invalid";
const isClear = (query) => clearable() && !undecided(query) && !state.view.unattributable[query] && !spoiled(query);
const badge = (text) => el("span", { class: "badge" }, text);

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
  const { symbol } = state.view.unit;
  const [number, plusMinus] = parts(value, error);
  const rest = [plusMinus, symbol, plusMinus && covers ? `(±: ${covers})` : ""].filter(Boolean);
  return [
    pictures ?? picture(data.examples[group][0], ""),
    el("span", {},
      el("span", { class: "line" },
        el("span", { class: "name", title: groups[group] }, groups[group], ...mark(state.view.verdicts[group])),
        el("span", { class: "number" },
          el("span", { class: "score" }, number),
          el("span", { class: "error" }, rest.map((part) => ` ${part}`).join("")))),
      bar(value, error, low, high), extra),
  ];
}

// ---- header

/** What to call a table in the switch: its name, and what it is worth under a weighting. */
function choices() {
  return tables.map((_, position) => {
    const of = views.filter((view) => view.table === position);
    const methods = [...new Set(of.map((view) => view.method))];
    return methods.map((method) => {
      const own = of.filter((view) => view.method === method);
      const shown = own.find((view) => view.weighting === state.view.weighting) ?? own[0];
      const name = methods.length > 1 ? `${method}, ${seedsOf(shown)}` : report.tables[position].name;
      return { shown, own, label: `${name}: ${LEVELS[shown.standing.level]}` };
    });
  }).flat();
}

function controls() {
  const box = $("views"), all = choices();
  const now = all.find(({ own }) => own.includes(state.view));
  box.replaceChildren();
  if (all.length > 1) {
    const select = el("select", { id: "method", "aria-label": "Scores", onchange: () => { turnTo(all[select.selectedIndex].shown); $("method").focus(); } },
      ...all.map((one) => el("option", { selected: one === now }, one.label)));
    box.append(el("label", { class: "note" }, "Scores ", select));
  }
  if (now.own.length > 1) {
    const options = now.own.map((view) => el("label", {},
      el("input", { type: "radio", name: "weighting", value: view.weighting, checked: view === state.view,
        onchange: () => { turnTo(view); box.querySelector(":checked").focus(); } }),
      view.label));
    box.append(el("fieldset", {}, el("legend", {}, term("weighting", "Weighting")), el("span", { class: "segments" }, ...options)));
  }
}

/** Show other scores, without a choice that they do not offer. */
function turnTo(view) {
  state.view = view;
  if (!clearable()) {
    state.show = $("show").value = "all";
    if (state.sort === "margin") state.sort = $("sort").value = "given";
  }
  controls();
  render();
}

function finding() {
  const { summary, standing, unit, method } = state.view;
  const all = queries.map((_, q) => q), count = queries.length;
  const clear = all.filter(isClear).length, close = all.filter(undecided).length;
  const missed = all.filter((q) => !undecided(q) && state.view.unattributable[q]).length;
  const invalid = count - clear - close - missed;
  const leader = ranked(summary.map((group) => group.top))[0];
  const strong = (text) => el("b", {}, text);
  const { mean, stderr, top } = summary[leader];
  const told = standing.unclear ? [`No top group is called clear: ${standing.unclear}. `] : [
    strong(`${clear} of ${count}`), ` ${count === 1 ? "query has" : "queries have"} a clear top group`,
    close ? `, ${close} ${close === 1 ? "is" : "are"} undecided` : "",
    missed ? `, ${missed} more ${missed === 1 ? "is" : "are"} not attributable` : "",
    invalid ? `, ${invalid} more ${invalid === 1 ? "is" : "are"} led by a group whose model is invalid` : "", ". ",
  ];
  const between = stderr > 0 && count > 1 ? " (± between queries)" : "";
  if (standing.level !== "chance") told.push("Group ", strong(groups[leader]),
    ` leads most often: ${top} of ${count} (${percent(top / count)}), mean score ${withError(mean, stderr)}${between}.`);
  $("finding").replaceChildren(...told);
  const errors = unit.covers ? ` ± of a score: ${unit.covers}; of a mean: differences between queries as well.` : "";
  $("unit").textContent = `Unit: ${unit.name}.${errors} Method ${method}, ${seedsOf(state.view)}.`;
  $("covers").textContent = unit.covers ? ` ± of a score is the estimate's own: ${unit.covers}.` : "";
  for (const [kind, shown] of [["view", state.view.index], ["table", state.view.table]]) {
    for (const node of document.querySelectorAll(`[data-${kind}]`)) node.hidden = Number(node.dataset[kind]) !== shown;
  }
  $("weighting-note").textContent = state.view.note;
  $("show").closest("label").hidden = $("show-what").hidden = !clearable();
  const lead = $("sort").querySelector("[value=margin]");
  lead.hidden = lead.disabled = !clearable();
}

// ---- groups

function groupList() {
  const { summary } = state.view;
  const low = Math.min(0, ...summary.map((group) => group.mean - 1.96 * group.stderr));
  const high = Math.max(0, ...summary.map((group) => group.mean + 1.96 * group.stderr));
  $("groups").replaceChildren(...ranked(summary.map((group) => group.mean)).map((g) => {
    const { mean, stderr, top } = summary[g];
    const led = el("span", { class: "led" }, `leads ${top} of ${queries.length} · ${percent(top / queries.length)}`);
    return el("li", {}, el("button", {
      type: "button", class: "row", "data-group": g, "aria-pressed": String(state.group === g), onclick: () => choose(g),
    }, ...row(g, mean, stderr, low, high, { extra: led })));
  }));
}

function choose(group) {
  state.group = state.group === group ? null : group;
  for (const button of $("groups").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.group) === state.group));
  }
  refilter();
}

// ---- queries

function select() {
  const wanted = state.find.trim().toLowerCase();
  const text = (q) => `${queries[q]} ${report.prompts[q] ?? ""}`.toLowerCase();
  visible = queries.map((_, q) => q).filter((q) =>
    (state.group === null || topOf(q) === state.group)
    && (state.show === "all" || (state.show === "clear" ? isClear(q) : undecided(q)))
    && (!wanted || text(q).includes(wanted)));
  const score = (q) => state.view.scores[q][topOf(q)];
  const orders = {
    score: (a, b) => score(b) - score(a),
    margin: (a, b) => (margin(a) === margin(b) ? 0 : margin(b) - margin(a)),
    name: (a, b) => queries[a].localeCompare(queries[b], undefined, { numeric: true }),
  };
  if (orders[state.sort]) visible.sort(orders[state.sort]);
}

function card(q) {
  const { scores, stderr } = state.view;
  const best = ranked(scores[q]).slice(0, 3);
  const low = Math.min(0, ...best.map((g) => scores[q][g] - 1.96 * stderr[q][g]));
  const high = Math.max(0, ...best.map((g) => scores[q][g] + 1.96 * stderr[q][g]));
  const rows = best.map((g) => el("span", { class: "row" }, ...row(g, scores[q][g], stderr[q][g], low, high)));
  const prompt = report.prompts[q];
  return el("li", { class: isClear(q) ? "" : "undecided" }, el("button", { type: "button", onclick: () => open(q) },
    picture(data.pictures[q], `Query ${queries[q]}`, "picture"),
    el("span", {},
      el("span", { class: "id" }, el("span", { title: queries[q] }, queries[q]),
        state.view.unattributable[q] ? badge("not attributable") : null,
        undecided(q) ? badge("undecided") : null),
      prompt ? el("span", { class: "prompt", title: prompt }, prompt) : null,
      el("span", {}, ...rows))));
}

function cards() {
  const shown = visible.slice(0, state.cards);
  $("cards").replaceChildren(...shown.map(card));
  counted();
}

/** Add cards to those that are shown, and leave these as they are. */
function moreCards() {
  const first = state.cards;
  state.cards += CARDS;
  $("cards").append(...visible.slice(first, state.cards).map(card));
  counted();
  $("cards").children[first]?.querySelector("button").focus();
}

function counted() {
  const shown = Math.min(state.cards, visible.length), rest = visible.length - shown;
  $("count").textContent = rest ? `${shown} of ${visible.length} shown` : `${visible.length} of ${queries.length}`;
  $("more").hidden = !rest;
  $("more").textContent = `Show ${Math.min(rest, CARDS)} more`;
  $("clear").hidden = state.group === null;
  if (state.group !== null) $("clear").textContent = `led by ${groups[state.group]} ✕`;
  $("printed").textContent = rest ? `On paper: the first ${shown} of ${visible.length} queries; the page itself has them all.` : "";
}

function refilter() {
  state.cards = CARDS;
  select();
  cards();
  heat();
}

function render() {
  finding();
  groupList();
  select();
  cards();
  heat();
  outline();
  curveGrid();
}

const onFilter = (name) => (event) => {
  state[name] = event.target.value;
  refilter();
};
$("find").addEventListener("input", onFilter("find"));
$("show").addEventListener("change", onFilter("show"));
$("sort").addEventListener("change", onFilter("sort"));
$("clear").addEventListener("click", () => { choose(state.group); $("find").focus(); });
$("more").addEventListener("click", moreCards);
