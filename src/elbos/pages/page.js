// Draws the plots, shows named weightings when they are asked for, and copies code.

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

function enableNamed(plot) {
  for (const box of document.querySelectorAll(".named input")) {
    box.disabled = false;
    box.addEventListener("change", () =>
      Plotly.restyle(plot, { visible: box.checked }, [Number(box.value)]),
    );
  }
}

async function drawAll() {
  await loadPlotly();
  for (const plot of plots) await draw(plot);
  enableNamed(plots[0]);
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
drawAll().catch((error) => {
  for (const plot of plots) plot.hidden = true;
  for (const trouble of document.querySelectorAll(".trouble"))
    trouble.textContent =
      `The curves cannot be drawn in this browser (${error}). Their numbers are in the table below.`;
});
