"use strict";
const data = JSON.parse(document.getElementById("case-data").textContent);
const table = document.getElementById("case-table");
const box = table.parentElement;
const body = table.tBodies[0];
const headers = [...table.tHead.rows[0].cells];

// Per column of the table, the texts of all rows. The first column of numbers is Dice.
const all = data.remarks.map((_, row) => row);
const caseOf = (row) => Math.floor(row / data.structures.length);
const structureOf = (row) => row % data.structures.length;
const texts = [
  all.map((row) => data.cases[caseOf(row)]),
  all.map((row) => data.structures[structureOf(row)]),
  ...data.texts,
  data.remarks,
];
const FIRST_NUMBER = 2;
const numbers = data.keys.map((keys) => keys.map((key) => (key === null ? NaN : Number(key))));
const noted = new Set(data.noted);
const pictured = new Set(data.pictured);

let order = all; // of all rows
let shown = all; // the rows that the filter leaves, in this order
let linked = null; // the row that the address of the page names

// Only rows near what is in view are elements; two empty rows are as high as the others.
const SPARE = 50;
const drawn = new Map(); // position in `shown` -> element
const [above, below] = ["before", "after"].map((side) => {
  const space = document.createElement("tbody");
  space.setAttribute("aria-hidden", "true");
  body[side](space);
  return space.insertRow();
});
const pattern = body.rows[0].cloneNode(true);
pattern.removeAttribute("id");
let height = body.rows[0].getBoundingClientRect().height;
let printing = false;

function element(row, position) {
  const made = pattern.cloneNode(true);
  made.setAttribute("aria-rowindex", position + 2); // the header is 1
  made.classList.toggle("linked", row === linked);
  texts.forEach((column, number) => (made.cells[number].textContent = column[row]));
  if (pictured.has(caseOf(row))) {
    const link = document.createElement("a");
    link.href = `#c${caseOf(row)}`;
    link.title = "picture";
    link.append(...made.cells[0].childNodes);
    made.cells[0].append(link);
  }
  return made;
}

function draw() {
  const inView = window.innerHeight / height; // the table is never higher
  const top = Math.min(box.scrollTop / height, Math.max(0, shown.length - inView));
  const first = printing ? 0 : Math.max(0, Math.floor(top) - SPARE);
  const last = printing ? shown.length : Math.min(shown.length, Math.ceil(top + inView) + SPARE);
  for (const [position, row] of drawn) {
    if (position >= first && position < last) continue;
    row.remove();
    drawn.delete(position);
  }
  let next = null;
  for (let position = last - 1; position >= first; position--) {
    if (!drawn.has(position)) {
      drawn.set(position, body.insertBefore(element(shown[position], position), next));
    }
    next = drawn.get(position);
  }
  above.style.height = `${first * height}px`;
  below.style.height = `${(shown.length - last) * height}px`;
}

// The old rows are removed last, because a table without rows would scroll to its start.
function redraw() {
  const old = [...body.rows];
  drawn.clear();
  draw();
  for (const row of old) row.remove();
}

// The widest text of each column, in a row without height, so that columns keep their width.
function keepWidths() {
  const widest = pattern.cloneNode(true);
  widest.className = "widest";
  const pen = document.createElement("canvas").getContext("2d");
  texts.forEach((column, number) => {
    pen.font = getComputedStyle(body.rows[0].cells[number]).font;
    const isNumber = number >= FIRST_NUMBER && number < texts.length - 1; // digits are equally wide
    const width = isNumber ? (text) => text.length : (text) => pen.measureText(text).width;
    let most = -1;
    for (const text of new Set(column)) {
      if (width(text) <= most) continue;
      most = width(text);
      widest.cells[number].textContent = text;
    }
  });
  above.before(widest);
}

// Names are ranked once each, because to compare them is slow. Empty remarks have no rank.
function ranks(column) {
  const collator = new Intl.Collator(undefined, { numeric: true });
  const sorted = [...new Set(column)].sort(collator.compare);
  const rank = new Map(sorted.map((text, position) => [text, text === "" ? NaN : position]));
  return column.map((text) => rank.get(text));
}

// Missing values come last in both directions.
function sortBy(column) {
  const header = headers[column];
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of headers) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const keys = numbers[column - FIRST_NUMBER] ?? ranks(texts[column]);
  order = [...order].sort((a, b) => {
    const missing = isNaN(keys[a]) - isNaN(keys[b]);
    return missing || (descending ? keys[b] - keys[a] : keys[a] - keys[b]);
  });
  filter();
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
const names = all.map((row) => `${texts[0][row]} ${texts[1][row]}`.toLowerCase());

function filter() {
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const limit = dice.value === "" ? null : Number(dice.value);
  shown = order.filter(
    (row) =>
      words.every((word) => names[row].includes(word)) &&
      (limit === null || numbers[0][row] < limit) &&
      (!missed.checked || noted.has(row))
  );
  count.textContent =
    shown.length === all.length ? `${all.length} rows` : `${shown.length} of ${all.length} rows`;
  table.setAttribute("aria-rowcount", shown.length + 1);
  redraw();
}

// Pictures and dots link to rows. If the filter hides the row, all rows are shown again.
function reveal() {
  const [, inCase, structure] = location.hash.match(/^#r(\d+)-(\d+)$/) ?? [];
  linked = inCase === undefined ? null : inCase * data.structures.length + Number(structure);
  if (linked !== null && !shown.includes(linked)) {
    form.reset();
    filter();
  }
  const position = shown.indexOf(linked);
  if (position >= 0) box.scrollTop = position * height - box.clientHeight / 2;
  redraw();
  drawn.get(position)?.scrollIntoView({ block: "center" });
}

// The dots of a chart are one path. The one under the pointer gets a link to its row.
const charts = document.querySelectorAll(".chart[data-column]");
const [dotLink, dotRing, dotTitle] = ["a", "circle", "title"].map((name) =>
  document.createElementNS(charts[0].namespaceURI, name)
);
dotLink.setAttribute("tabindex", "-1");
dotRing.setAttribute("r", "4");
dotRing.append(dotTitle);
dotLink.append(dotRing);

function dotsOf(chart) {
  const values = numbers[chart.dataset.column];
  // From where a dot's outline starts to its middle, and which values have such dots.
  const kinds = [
    [".dots", 0, -2.6, isFinite],
    [".infinite", 4, 4, (value) => value === Infinity],
  ];
  return [...chart.querySelectorAll(".row")].flatMap((group, structure) => {
    const rows = all.filter((row) => structureOf(row) === structure);
    return kinds.flatMap(([kind, right, down, has]) => {
      const path = group.querySelector(kind);
      const starts = path ? [...path.getAttribute("d").matchAll(/M([\d.]+),([\d.]+)/g)] : [];
      const ofKind = rows.filter((row) => has(values[row]));
      return starts.map(([, x, y], k) => ({
        row: ofKind[k],
        path,
        x: Number(x) + right,
        y: Number(y) + down,
      }));
    });
  });
}

function linkDots(chart) {
  let dots = null;
  const point = (event) => {
    dots ??= dotsOf(chart);
    const inverse = chart.getScreenCTM().inverse();
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(inverse);
    let nearest = null;
    let least = 6; // px of the chart
    for (const dot of dots) {
      const distance = Math.hypot(dot.x - at.x, dot.y - at.y);
      if (distance < least) [nearest, least] = [dot, distance];
    }
    if (nearest === null) return dotLink.remove();
    dotLink.setAttribute("href", `#r${caseOf(nearest.row)}-${structureOf(nearest.row)}`);
    dotRing.setAttribute("cx", nearest.x);
    dotRing.setAttribute("cy", nearest.y);
    dotTitle.textContent = `${texts[0][nearest.row]}: ${data.texts[chart.dataset.column][nearest.row]}`;
    if (dotLink.previousSibling !== nearest.path) nearest.path.after(dotLink);
  };
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", () => dotLink.remove());
}

charts.forEach(linkDots);
box.addEventListener("scroll", draw, { passive: true });
window.addEventListener("resize", () => {
  height = body.rows[0]?.getBoundingClientRect().height || height;
  draw();
});
for (const [event, before] of [["beforeprint", true], ["afterprint", false]]) {
  window.addEventListener(event, () => {
    printing = before;
    draw();
  });
}
window.addEventListener("hashchange", reveal);
document.addEventListener("click", (event) => {
  const hash = event.target.closest("a")?.getAttribute("href");
  if (hash === location.hash) reveal(); // the same address again is no change of it
});
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
keepWidths();
filter();
if (location.hash) reveal();
