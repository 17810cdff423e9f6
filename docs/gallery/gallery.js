// Searches and sorts the cards of a gallery.

const search = document.getElementById("search");
const sort = document.getElementById("sort");
const count = document.getElementById("count");
const grid = document.getElementById("cards");
const cards = [...document.querySelectorAll(".card")];
const listed = [...grid.children];
const words = new Map(cards.map((card) => [card, wordsOf(card)]));

/** The text of a card, and what its showcase says of all cards. */
function wordsOf(card) {
  const said = card.closest(".showcase")?.querySelectorAll(":scope > :is(h2, p)") ?? [];
  return [...said, card].map((one) => one.textContent).join(" ").toLowerCase();
}

/** Show the cards that have every word, and the showcases that have such cards. */
function filter() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const card of cards) {
    const text = words.get(card);
    card.hidden = !wanted.every((word) => text.includes(word));
  }
  for (const showcase of document.querySelectorAll(".showcase"))
    showcase.hidden = !showcase.querySelector(".card:not([hidden])");
  const shown = cards.filter((card) => !card.hidden).length;
  count.textContent = `${shown} of ${cards.length} losses`;
}

function reorder() {
  const key = sort.value;
  const sorted = key
    ? [...listed].sort((a, b) => order(a.dataset[key], b.dataset[key], 1))
    : listed;
  grid.append(...sorted);
}

search.addEventListener("input", filter);
sort.addEventListener("change", reorder);
document.getElementById("controls").hidden = false;
if (location.hash.startsWith("#q=")) search.value = decodeURIComponent(location.hash.slice(3));
filter();
