{% include "tables.js" %}

for (const table of tables) page(table);

// Pictures: the first ones, until all are asked for.
const FIRST = 12;
const cards = all(".people li"), more = one(".all-people");
let opened = false;
function show() {
  cards.forEach((card, k) => { card.hidden = !opened && k >= FIRST; });
  more.hidden = cards.length <= FIRST;
  more.textContent = opened ? `Show the first ${FIRST}` : `Show all ${cards.length}`;
}
if (more) {
  more.addEventListener("click", () => { opened = !opened; show(); });
  show();
}
