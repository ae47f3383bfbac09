// Draws each plot into its place, in the page's own colours and width, and again when either changes.

const NARROWEST_PANEL = 140;
const WIDEST_PANEL = 340;
const MOST_COLUMNS = 4;
const CHARACTER = 6.2; // pixels of a title's letter, more or less

const root = getComputedStyle(document.documentElement);
const colour = (name) => root.getPropertyValue(name).trim();

function theme(width, longest) {
  const text = { labelColor: colour("--quiet"), titleColor: colour("--text"), titleFontWeight: "normal" };
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: colour("--line") },
    axis: {
      ...text, labelFontSize: width < 500 ? 10 : 11, titleFontSize: 12, titlePadding: 8, labelLimit: Math.min(260, width * (width < 500 ? 0.48 : 0.4)),
      gridColor: colour("--grid"), domainColor: colour("--line"), tickColor: colour("--line"),
    },
    legend: {
      ...text, labelColor: colour("--text"), orient: "top", direction: "horizontal",
      columns: Math.max(1, Math.floor(width / (longest * CHARACTER + 45))), labelLimit: width - 60,
      labelFontSize: 12, symbolStrokeWidth: 2, symbolOpacity: 1, titleOrient: "left", symbolLimit: 30,
      layout: { top: { direction: "vertical", anchor: "start", margin: 4 } },
      symbolBaseFillColor: colour("--quiet"), symbolBaseStrokeColor: colour("--quiet"),
    },
    header: { labelColor: colour("--text"), labelFontSize: 12, labelLimit: 300 },
    text: { color: colour("--quiet"), fontSize: 11 },
    rule: { color: colour("--quiet") },
    line: { color: colour("--quiet") },
    range: {
      category: [0, 1, 2, 3, 4, 5, 6].map((number) => colour(`--c${number}`)),
      held: ["--c1", "--c2", "--c0", "--c6"].map(colour),
      ordinal: { scheme: colour("--scale"), extent: [Number(colour("--scale-from")), Number(colour("--scale-to"))] },
    },
  };
}

// A plot of several panels has as many in a row as can be read; one of a single panel fills the width.
function sized(spec, width) {
  if (!spec.facet) {
    const autosize = { type: "fit-x", contains: "padding" };
    return { height: Math.max(240, Math.min(380, width * 0.6)), ...spec, width, autosize };
  }
  const inner = width - 75; // the axis on the left takes the rest
  const columns = columnsFor(spec.usermeta.panels, Math.floor(inner / NARROWEST_PANEL));
  const panel = Math.min(WIDEST_PANEL, Math.floor(inner / columns) - 22);
  const header = { labelLimit: panel + 16, labelLineHeight: 14, labelExpr: "split(datum.label, '\\n')" };
  const title = (text) => wrapped(text, panel / CHARACTER);
  const values = spec.data.values.map((row) => ({ ...row, panel: title(row.panel) }));
  return {
    ...spec,
    data: { values },
    facet: { ...spec.facet, header, sort: spec.facet.sort.map(title) },
    columns,
    spacing: 22,
    spec: { ...spec.spec, width: panel, height: Math.max(130, Math.min(240, panel * 0.8)) },
  };
}

// What tells panels apart may stand last in a title: a long one is broken into lines, not cut.
function wrapped(title, most) {
  const lines = [];
  for (const part of title.split(", ")) {
    const line = lines.length ? `${lines[lines.length - 1]}, ${part}` : part;
    if (lines.length && line.length > most) lines.push(part);
    else lines[Math.max(0, lines.length - 1)] = line;
  }
  return lines.join("\n");
}

// Full rows if that costs no more than half the columns.
function columnsFor(panels, fitting) {
  const most = Math.max(1, Math.min(panels, fitting, MOST_COLUMNS));
  for (let columns = most; columns > most / 2; columns -= 1) {
    if (panels % columns === 0) return columns;
  }
  return most;
}

const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false };
const tooltip = { disableDefaultStyle: true };
const drawn = new Map();

// The characters of the longest label of any legend, by which its columns are made.
function longestLabel(value) {
  if (value === null || typeof value !== "object") return 0;
  const labels = value.legend?.values ?? value.scale?.domain ?? [];
  return Math.max(8, ...labels.map((label) => String(label).length), ...Object.values(value).map(longestLabel));
}

async function draw(script) {
  const place = document.getElementById(script.dataset.plot);
  const width = place.clientWidth;
  const spec = sized(JSON.parse(script.textContent), width);
  drawn.get(place)?.finalize();
  const config = theme(width, longestLabel(spec));
  drawn.set(place, await window.vegaEmbed(place, spec, { ...options, tooltip, config }));
}

async function drawAll() {
  for (const script of document.querySelectorAll("script[data-plot]")) {
    try {
      await draw(script);
    } catch (error) {
      document.getElementById(script.dataset.plot).textContent = `This plot cannot be drawn: ${error.message}`;
    }
  }
  document.documentElement.dataset.drawn = "yes";
}

let waiting;
let lastWidth = window.innerWidth;
function again() {
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 150);
}
window.addEventListener("resize", () => {
  if (window.innerWidth !== lastWidth) {
    lastWidth = window.innerWidth;
    again();
  }
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((table) => table.setAttribute("open", ""));
});
window.addEventListener("afterprint", () => folded.forEach((table) => table.removeAttribute("open")));
drawAll();
