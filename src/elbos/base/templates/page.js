// Draws the plots, shows and brings out curves when they are asked for, sorts tables.

const textOf = (id) => document.getElementById(id).textContent;
const plots = document.querySelectorAll(".plot");
const PRINTED_WIDTH = 660; // pixels, on A4 and on Letter

/** Unpack the plotting library and run it. */
async function loadPlotly() {
  const packed = Uint8Array.from(atob(textOf("plotly")), (byte) => byte.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}

async function draw(plot) {
  const { data, layout } = JSON.parse(textOf(`${plot.id}-figure`));
  // a finger scrolls the page; only a mouse zooms
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  await Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false });
  addEventListener("beforeprint", () => Plotly.relayout(plot, { width: PRINTED_WIDTH }));
  addEventListener("afterprint", () => Plotly.relayout(plot, { width: null, autosize: true }));
  enableSaving(plot);
}

function enableSaving(plot) {
  const save = plot.closest("section").querySelector(".save");
  save.disabled = false;
  save.addEventListener("click", () => {
    // with a legend, which on the page are the swatches beside the names
    const picture = { data: plot.data, layout: { ...plot.layout, showlegend: true } };
    const size = { width: 1000, height: plot.layout.height, scale: 2 };
    Plotly.downloadImage(picture, { format: "png", filename: save.dataset.file, ...size });
  });
}

/** Fade all curves but those of the buttons that are pressed, in the plots that have them. */
function enableBringingOut() {
  const buttons = [...document.querySelectorAll("[data-brings-out]")];
  const bringOut = () => {
    const pressed = buttons.filter((button) => button.ariaPressed === "true");
    const names = pressed.flatMap((button) => JSON.parse(button.dataset.bringsOut));
    const isFaint = ({ meta }) => meta !== undefined && names.length && !names.includes(meta);
    for (const plot of plots)
      Plotly.restyle(plot, { opacity: plot.data.map((curve) => (isFaint(curve) ? 0.12 : 1)) });
  };
  for (const button of buttons) {
    button.disabled = false;
    button.addEventListener("click", () => {
      button.ariaPressed = button.ariaPressed !== "true";
      bringOut();
    });
  }
}

async function drawAll() {
  await loadPlotly();
  for (const plot of plots) await draw(plot);
  enableBringingOut();
}

/** Turn the heads of columns into buttons that sort by them, pressed again the other way round. */
function makeSortable(table) {
  const [body] = table.tBodies;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const valueIn = ({ cells }) => cells[column].dataset.value ?? cells[column].textContent;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isSorted = head.ariaSort;
      const first = head.dataset.best ?? "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      for (const each of heads) each.removeAttribute("aria-sort");
      head.ariaSort = isSorted === first ? other : first;
      const sign = head.ariaSort === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => order(valueIn(a), valueIn(b), sign)));
    });
  });
}

for (const table of document.querySelectorAll("[data-sortable]")) makeSortable(table);
drawAll().catch((error) => {
  for (const plot of plots) plot.hidden = true;
  for (const trouble of document.querySelectorAll(".trouble"))
    trouble.textContent =
      `The curves cannot be drawn in this browser (${error}). Their numbers are in the table below.`;
});
