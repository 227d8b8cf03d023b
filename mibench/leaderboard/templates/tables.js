const one = (selector, place = document) => place.querySelector(selector);
const all = (selector, place = document) => [...place.querySelectorAll(selector)];
const data = JSON.parse(one("#data").textContent);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Tables: sorted by the number that a cell begins with or tells, or by its text; what is missing comes last, in both directions.
const MOST = 50;
const MISSING = new Set(["", "–", "—"]);
const collator = new Intl.Collator("en", { numeric: true });
const keyOf = (cell) => {
  const { order } = cell.dataset, text = cell.textContent.trim();
  if (order) return Number(order);
  if (MISSING.has(text)) return null;
  if (cell.classList.contains("text")) return text;
  // Why a number is missing stands in an element of its own.
  const number = cell.firstChild.nodeType === Node.TEXT_NODE ? Number(text.split(/\s/)[0].replaceAll(",", "")) : NaN;
  return Number.isNaN(number) ? null : number;
};
const compare = (a, b) => typeof a === "number" ? a - b : collator.compare(a, b);
const tables = all("table.rows").map((place) => ({
  place, body: place.tBodies[0], rows: [...place.tBodies[0].rows], opened: false,
}));

function sort(table, head) {
  const directions = head.classList.contains("falling") ? ["descending", "ascending", null] : ["ascending", "descending", null];
  const next = directions[(directions.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  const rows = [...table.rows];
  if (next) {
    head.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    rows.sort((one, other) => {
      const [a, b] = [one, other].map((row) => keyOf(row.cells[head.cellIndex]));
      return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
    });
  }
  table.body.append(...rows);
  page(table);
}

function page(table) {
  const passing = [...table.body.rows].filter((row) => row.dataset.passes !== "no");
  for (const row of table.rows) row.hidden = true;
  for (const row of table.opened ? passing : passing.slice(0, MOST)) row.hidden = false;
  const none = table.place.parentElement.nextElementSibling, more = none.nextElementSibling;
  none.hidden = passing.length > 0 || !table.rows.length;
  more.hidden = passing.length <= MOST;
  more.textContent = table.opened ? `Show the first ${MOST} rows` : `Show all ${passing.length} rows`;
  more.onclick = () => { table.opened = !table.opened; page(table); };
}

for (const table of tables) {
  for (const head of all("thead th:not(.plain)", table.place)) {
    const button = element("button", { type: "button", className: "sort" });
    if (one("a", head)) { // a name that links to its paper keeps its link beside the button
      button.classList.add("bare");
      button.ariaLabel = `Sort by ${head.textContent.trim()}`;
      head.append(" ", button);
    } else {
      button.append(...head.childNodes);
      head.append(button);
    }
    if (head.title) button.setAttribute("aria-describedby", head.dataset.help);
    button.addEventListener("click", () => sort(table, head));
  }
}

// Columns of detail open on a click; without scripts all are there.
for (const button of all(".wider")) {
  const table = one("table", button.nextElementSibling), label = button.textContent;
  const hidden = [...table.tHead.rows[0].cells].map((head) => head.classList.contains("detail"));
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, index) => cell.classList.toggle("detail", hidden[index]));
  }
  const show = (whole) => {
    table.classList.toggle("brief", !whole);
    button.ariaExpanded = whole;
    button.textContent = whole ? "Show the main columns" : label;
  };
  button.addEventListener("click", () => show(table.classList.contains("brief")));
  button.hidden = false;
  show(false);
}

// What a heading means, and why a number is missing: on hovering, on focus, and on a tap.
const hint = one("#hint");
for (const place of all("th[title], abbr[title]")) {
  place.dataset.hint = place.title;
  place.removeAttribute("title");
  if (place.matches("abbr")) place.tabIndex = 0;
}
let told = null;
function tell(place) {
  told = place;
  hint.hidden = !place;
  if (!place) return;
  hint.textContent = place.dataset.hint;
  const box = place.getBoundingClientRect();
  hint.style.left = `${Math.max(8, Math.min(box.left, innerWidth - hint.offsetWidth - 8))}px`;
  const above = box.top - hint.offsetHeight - 6;
  hint.style.top = `${above > 0 ? above : box.bottom + 6}px`;
}
const hinted = (event) => event.target.closest?.("[data-hint]") ?? null;
for (const kind of ["focusin", "click"]) document.addEventListener(kind, (event) => tell(hinted(event)));
document.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") tell(hinted(event)); });
document.addEventListener("focusout", () => tell(null));
document.addEventListener("scroll", () => tell(told), { capture: true, passive: true }); // focus scrolls, and it goes along
