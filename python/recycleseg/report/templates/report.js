"use strict";
const table = document.getElementById("case-table");
const body = table.tBodies[0];
const headers = [...table.tHead.rows[0].cells];
const rows = [...body.rows];

// Missing values ("nan" and empty remarks) come last in both directions.
function keyOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.v === undefined) return cell.textContent || null;
  const value = cell.dataset.v.replace("inf", "Infinity");
  return value === "nan" ? null : Number(value);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(column) {
  const header = headers[column];
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of headers) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const keyed = [...body.rows].map((row) => [keyOf(row, column), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...keyed.map(([, row]) => row));
}

headers.forEach((header, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  button.addEventListener("click", () => sortBy(column));
  header.append(button);
});

const form = document.getElementById("filters");
const text = document.getElementById("filter-text");
const dice = document.getElementById("filter-dice");
const missed = document.getElementById("filter-missed");
const count = document.getElementById("filter-count");
const diceColumn = headers.findIndex((header) => header.dataset.column === "dice");
const names = new Map(
  rows.map((row) => [row, `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase()])
);

function filter() {
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const limit = dice.value === "" ? null : Number(dice.value);
  let shown = 0;
  for (const row of rows) {
    const value = Number(row.cells[diceColumn].dataset.v);
    row.hidden =
      !words.every((word) => names.get(row).includes(word)) ||
      (limit !== null && !(value < limit)) ||
      (missed.checked && !row.classList.contains("missed"));
    shown += !row.hidden;
  }
  count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
}

// If a picture or a dot links to a row that the filter hides, all rows are shown again.
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.hidden) {
    form.reset();
    filter();
    target.scrollIntoView({ block: "center" });
  }
}

form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", reveal);
filter();
