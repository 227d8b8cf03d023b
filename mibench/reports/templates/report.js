{% include "tables.js" %}

// People: filters and search narrow cards and rows alike; the order is that of the cards.
const FIRST = 24;
const filters = one(".filters");
const everyone = new Map(data.people.map((each) => [each.number, each]));
const cards = all(".people li");
let opened = false;

const TESTS = {
  all: () => true,
  near: (each, most) => each.best !== null && each.best <= most,
  closer: (each) => each.closer === true,
  more: (each) => each.excess !== null && each.excess > 0,
  less: (each) => each.excess !== null && each.excess <= 0,
  hit: (each) => each.hits > 0,
  miss: (each) => each.hits === 0,
};
const ORDERS = { number: (each) => each.number, best: (each) => each.best, bits: (each) => negated(each.bits),
  excess: (each) => negated(each.excess), hits: (each) => negated(each.hits) };
const negated = (value) => value === null ? null : -value;
const numberOf = (place) => Number(place.dataset.number);

function narrow() {
  const { show, order } = filters.elements;
  const passes = TESTS[show.value], most = Number(show.selectedOptions[0].dataset.most);
  const words = one("input[type=search]", filters).value.toLowerCase().split(/\s+/).filter(Boolean);
  const there = new Set([...everyone.values()].filter((each) => passes(each, most) && words.every(
    (word) => /^\d+$/.test(word) ? String(each.number) === word || each.name.includes(word) : each.name.toLowerCase().includes(word)),
  ).map((each) => each.number));
  const key = ORDERS[order.value];
  const sorted = [...cards].sort((one, other) => {
    const [a, b] = [one, other].map((card) => key(everyone.get(numberOf(card))));
    return a === null || b === null ? (a === null) - (b === null) : a - b || numberOf(one) - numberOf(other);
  });
  one(".people")?.append(...sorted);
  const shown = sorted.filter((card) => there.has(numberOf(card)));
  for (const card of cards) card.hidden = true;
  for (const card of opened ? shown : shown.slice(0, FIRST)) card.hidden = false;
  if (cards.length) {
    const more = one(".all-people");
    one("#nobody").hidden = shown.length > 0;
    more.hidden = shown.length <= FIRST;
    more.textContent = opened ? `Show the first ${FIRST}` : `Show all ${shown.length}`;
  }
  for (const table of tables) {
    for (const row of table.rows) row.dataset.passes = there.has(numberOf(row)) ? "yes" : "no";
    page(table);
  }
  one(".count", filters).textContent = `${there.size} of ${everyone.size}`;
}

// The dialog of a person, and their neighbours.
let current = null;
function showPerson(button) {
  const dialog = one("#person"), each = everyone.get(numberOf(button.closest("li")));
  current = button;
  const count = (value) => value === null ? "–" : Math.round(value).toLocaleString("en");
  const rows = [
    ["Best guess", count(each.best)], ["All guesses", each.ranks.map(count).join(", ")],
    ["Look-up, typically", count(each.lookup)], ["Look-alike", count(each.alike)],
    ["Closer than any public picture", each.closer === null ? "–" : each.closer ? "yes" : "no"],
    ["Bits", each.bits === null ? "–" : `${each.bits.toFixed(1)}${each.excess === null ? "" : `, ${each.excess < 0 ? "−" : "+"}${Math.abs(each.excess).toFixed(1)} beside look-up`}`],
    ["Recognised by the evaluator", each.hits === null ? "–" : `${each.hits} of ${each.samples}`],
  ].filter(([, text]) => text && text !== "–");
  one("h2", dialog).textContent = `${each.number} ${each.name}`;
  one(".four", dialog).replaceChildren(...all(".one", button).map((part) => part.cloneNode(true)));
  one("dl", dialog).replaceChildren(...rows.flatMap(([name, text]) => [
    element("dt", { textContent: name }), element("dd", { textContent: text })]));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function step(by) {
  const buttons = all(".person").filter((button) => button.offsetParent);
  showPerson(buttons[(buttons.indexOf(current) + by + buttons.length) % buttons.length]);
}

{% include "copy.js" %}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target instanceof HTMLDialogElement) event.target.close(); // the backdrop
  else if (button?.matches(".person")) showPerson(button);
  else if (button?.matches(".all-people")) { opened = !opened; narrow(); }
  else if (button?.dataset.step) step(Number(button.dataset.step));
  else if (button?.dataset.copy) copy(button);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tell(null);
  if (one("#person").open && event.key === "ArrowRight") step(1);
  if (one("#person").open && event.key === "ArrowLeft") step(-1);
});
if (filters) {
  filters.hidden = false;
  for (const kind of ["input", "change"]) filters.addEventListener(kind, narrow);
  filters.addEventListener("submit", (event) => event.preventDefault());
  narrow();
}
