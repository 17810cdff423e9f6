// Draws the plots, and sorts tables by the column whose head is pressed.

const plots = document.querySelectorAll(".plot");
const PRINTED_WIDTH = 660; // pixels, on A4 and on Letter

/** Unpack the plotting library and run it. */
async function loadPlotly() {
  const packed = document.getElementById("plotly").textContent;
  const bytes = Uint8Array.from(atob(packed), (byte) => byte.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}

async function draw(plot) {
  const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
  // A finger scrolls the page; only a mouse zooms.
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  // On a phone every name of the legend has a line of its own, which the panels do not pay for.
  const names = data.filter(({ name, showlegend }) => name && showlegend !== false);
  if (layout.showlegend && plot.clientWidth < 600) layout.height += 20 * names.length;
  const bar = { modeBarButtons: [["toImage"]], displaylogo: false };
  await Plotly.newPlot(plot, data, layout, { responsive: true, ...bar });
  addEventListener("beforeprint", () => Plotly.relayout(plot, { width: PRINTED_WIDTH }));
  addEventListener("afterprint", () => Plotly.relayout(plot, { width: null, autosize: true }));
}

async function drawAll() {
  await loadPlotly();
  for (const plot of plots) await draw(plot);
}

/** Numbers by value, words by the alphabet; what is empty is last, either way round. */
function order(a, b, sign) {
  const isEmpty = (text) => text === "" || text === "–";
  if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b);
  return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
}

for (const table of document.querySelectorAll("table:has(thead):has([data-value])")) {
  const [body] = table.tBodies;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const valueIn = ({ cells }) => cells[column].dataset.value ?? cells[column].textContent;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      body.append(...[...body.rows].sort((a, b) => order(valueIn(a), valueIn(b), sign)));
    });
  });
}

if (plots.length)
  drawAll().catch((error) => {
    for (const plot of plots) plot.textContent = `The curves cannot be drawn here (${error}).`;
  });
