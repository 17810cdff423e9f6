// Searches and sorts the cards of a gallery.

const search = document.getElementById("search");
const sort = document.getElementById("sort");
const count = document.getElementById("count");
const grid = document.getElementById("cards");
const cards = [...document.querySelectorAll(".card")];
const listed = [...grid.children];
const words = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));

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

/** Numbers by value, words by the alphabet; what is empty is last. */
function order(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
}

function reorder() {
  const key = sort.value;
  const sorted = key
    ? [...listed].sort((a, b) => order(a.dataset[key], b.dataset[key]))
    : listed;
  grid.append(...sorted);
}

search.addEventListener("input", filter);
sort.addEventListener("change", reorder);
document.getElementById("controls").hidden = false;
if (location.hash.startsWith("#q=")) search.value = decodeURIComponent(location.hash.slice(3));
filter();
