"use strict";
// Filters the rows of the list, and opens two runs beside each other. All text is in the page already.
const rows = [...document.querySelectorAll("tbody tr")];
const field = (name) => document.getElementById(name);
const [words, kind, model, count, compare, beside] =
  ["words", "kind", "model", "count", "compare", "beside"].map(field);
const boxes = () => [...document.querySelectorAll("tbody input:checked")];

function filter() {
  const parts = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const fits =
      parts.every((part) => row.dataset.words.includes(part)) &&
      (!kind.value || row.dataset.kind === kind.value) &&
      (!model.value || row.dataset.model === model.value);
    row.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${rows.length}`;
}

function chosen(event) {
  const now = boxes();
  if (now.length > 2) now.find((box) => box !== event.target).checked = false;
  compare.disabled = boxes().length !== 2;
}

function open() {
  if (compare.disabled) return;
  beside.replaceChildren(
    ...boxes().map((box) => {
      const frame = document.createElement("iframe");
      frame.src = box.dataset.page;
      frame.title = box.getAttribute("aria-label");
      return frame;
    }),
  );
  beside.hidden = false;
  beside.scrollIntoView();
}

function close() {
  beside.hidden = true;
  beside.replaceChildren();
}

for (const each of [words, kind, model]) each.addEventListener("input", filter);
field("filters").addEventListener("submit", (event) => event.preventDefault());
document.querySelector("tbody").addEventListener("change", chosen);
compare.addEventListener("click", open);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== words) {
    event.preventDefault();
    words.focus();
  } else if (event.key === "Escape") close();
  else if (event.key === "Enter" && event.target.type === "checkbox") open();
});
filter();
