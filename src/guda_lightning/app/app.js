"use strict";
// Asks about a picture and shows the parts of the answer as they come, one JSON value a line.
const at = (id) => document.getElementById(id);
const [answer, asked, progress, error, file, drop, condition] =
  ["answer", "asked", "progress", "error", "file", "drop", "condition"].map(at);
const parts = [...document.querySelectorAll(".part")];
let running = null;

function show(section, html) {
  section.innerHTML = html; // made by the server, which escapes every name
  section.hidden = false;
}

function receive(line) {
  if (line.asked !== undefined) asked.textContent = line.asked;
  if (line.done !== undefined) {
    progress.firstElementChild.value = line.done;
    progress.lastElementChild.textContent = line.doing;
  }
  if (line.part !== undefined) show(at(line.part), line.html);
}

async function ask(query, body) {
  running?.abort();
  const own = (running = new AbortController());
  for (const section of [...parts, error]) section.hidden = true;
  progress.hidden = false;
  receive({ asked: "", done: 0, doing: "waiting" });
  answer.setAttribute("aria-busy", "true");
  try {
    const to = new URLSearchParams({ ...query, condition: condition?.value ?? "" });
    const headers = { "content-type": "application/octet-stream" };
    const response = await fetch(`answer?${to}`, { method: "POST", headers, body, signal: own.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "", step; !(step = await reader.read()).done; ) {
      const lines = (rest + step.value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (own === running) receive(JSON.parse(line));
    }
  } catch (problem) {
    if (own !== running) return; // another picture took its place
    error.textContent = `guda app does not answer: ${problem.message}. Is it still running in the terminal?`;
    error.hidden = false;
  }
  if (own !== running) return;
  progress.hidden = true;
  answer.setAttribute("aria-busy", "false");
}

function press(button) {
  for (const one of document.querySelectorAll("[data-query]")) one.setAttribute("aria-pressed", one === button);
}

function askFile(chosen) {
  if (!chosen) return;
  press(null);
  // What is too large is refused by its size alone: the server reads no more than that either way.
  ask({ name: chosen.name, size: chosen.size }, chosen.size > Number(file.dataset.most) ? "" : chosen);
}

file.addEventListener("change", () => { askFile(file.files[0]); file.value = ""; });
for (const button of document.querySelectorAll("[data-query]"))
  button.addEventListener("click", () => { press(button); ask({ query: button.dataset.query }, ""); });
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // a picture beside the field would replace the page
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") askFile(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => askFile(event.clipboardData.files[0]));
