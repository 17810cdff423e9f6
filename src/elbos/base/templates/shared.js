// What every page does: orders values, copies code.

/** Numbers by value, words by the alphabet; what is empty is last, either way round. */
function order(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => copy(button));
}

