// ---- words explained, on hover and where the keyboard reaches them

const tip = $("tip");

function explain(word) {
  tip.textContent = $(word.getAttribute("aria-describedby")).textContent;
  tip.showPopover();
  const at = word.getBoundingClientRect(), { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  tip.style.top = `${at.bottom + height + 12 < innerHeight ? at.bottom + 6 : at.top - height - 6}px`;
}

const quiet = () => { if (tip.matches(":popover-open")) tip.hidePopover(); };
for (const [show, hide] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  addEventListener(show, ({ target }) => { const word = target.closest?.(".term"); if (word) explain(word); });
  addEventListener(hide, ({ target }) => { if (target.closest?.(".term")) quiet(); });
}
addEventListener("scroll", quiet, true);
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !tip.matches(":popover-open")) return;
  quiet();
  event.preventDefault();  // a dialog below stays
}, true);

// ---- help stays as the reader left it

const HELP = "guda-help";
function remembered(value) {
  try {
    if (value) localStorage.setItem(HELP, value);
    return localStorage.getItem(HELP);
  } catch { return null; }  // a browser may keep nothing for files
}
$("help").open = remembered() !== "closed";
$("help").addEventListener("toggle", () => { if (!paper) remembered($("help").open ? "open" : "closed"); });

// ---- light, dark and paper

let paper = null;  // what the page looked like before it was printed
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)"), media = matchMedia("print");

function theme(scheme = root.style.colorScheme) {
  root.style.colorScheme = scheme;
  root.dataset.theme = scheme || (dark.matches ? "dark" : "light");
  redraw();
}

function onPaper(printing) {
  if (printing === Boolean(paper)) return;
  if (printing) {
    paper = { scheme: root.style.colorScheme, cards: state.cards };
    theme("light");
    state.cards = Math.max(state.cards, PRINTED);
    if (tables[state.view.table].curves.length > CURVES) curveGrid(Infinity);
  } else {
    const { scheme, cards: before } = paper;
    paper = null;
    theme(scheme);
    state.cards = before;
    curvesOf = null;
    curveGrid();
  }
  cards();
  drawHeat();
}

$("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
dark.addEventListener("change", () => theme());
media.addEventListener("change", () => onPaper(media.matches));
addEventListener("beforeprint", () => onPaper(true));
addEventListener("afterprint", () => onPaper(false));

// ---- numbers to take along

function save(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

function asCsv() {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const lines = [["table", "method", "weighting", "seeds", "query", "group", "score", "stderr", "unit", "sized", "level"]];
  for (const view of report.views) {
    queries.forEach((query, q) => groups.forEach((group, g) => lines.push([view.table, view.method, view.weighting, view.seeds.join(" "),
      query, group, view.scores[q][g], view.stderr[q][g], view.unit.name, view.unit.sized, view.standing.level])));
  }
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

$("csv").addEventListener("click", () => save("report.csv", "text/csv", asCsv()));
$("json").addEventListener("click", () => save("report.json", "application/json", JSON.stringify(report, null, 1)));

// ---- start

document.body.classList.toggle("without-examples", data.examples.every((images) => !images.length));
if (data.pixelated) document.body.classList.add("pixelated");
theme();
controls();
render();
follow();
