// The graph: boxes and lines with places from the server, drawn by Plotly, which zooms and moves.

import { $, ask, go, latest, place, shared } from "./dom.js";

const LETTER = 6.2; // pixels
const opened = new Set();
let group = null;
let drawn = null;
let drawnAs = "";
let revision = 0;

export function start() {
  $("group").addEventListener("change", () => {
    group = $("group").value;
    opened.clear();
    update();
  });
  $("collapse").addEventListener("click", () => {
    opened.clear();
    update();
  });
  new ResizeObserver(() => { if (drawn && !$("graph").hidden) Plotly.Plots.resize($("drawing")); }).observe($("drawing"));
}

export function show() {
  if (group === null) {
    group = shared.overview.group;
    $("group").value = group;
  }
  update();
}

const update = latest(async (isLast) => {
  let answer;
  try {
    answer = await ask("graph", { group, open: [...opened] });
  } catch (error) {
    $("drawing-error").textContent = error.message;
    $("drawing-error").hidden = false;
    opened.clear();
    return;
  }
  if (!isLast()) return;
  $("drawing-error").hidden = true;
  draw(answer);
}, 30);

// The state of a box of several jobs is the worst of them; the order of states is from harmless to bad.
function worst(states) {
  const order = shared.overview.states;
  return Object.keys(states).sort((a, b) => order.indexOf(b) - order.indexOf(a))[0];
}

const size = (box) => Object.values(box.states).reduce((a, b) => a + b, 0);
const statesText = (box) => Object.entries(box.states).map(([state, number]) => (size(box) > 1 ? `${state} ${number}` : state)).join(", ");

// Plotly reads some HTML in texts: it must not find any in ours.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// Of a class the beginning counts; of a name the end, because many have their beginning in common.
function fitting(text, width, isName) {
  const most = Math.floor(width / LETTER);
  if (text.length <= most) return text;
  return isName ? `…${text.slice(1 - most)}` : `${text.slice(0, most - 1)}…`;
}

// Labels as long as there is room between two boxes of a row at the present zoom.
function labels(boxes, range) {
  const width = ($("drawing").clientWidth / Math.max(0.5, range[1] - range[0])) - 6;
  if (width < 5 * LETTER) return boxes.map(() => "");
  return boxes.map((box) => box.label.map((line, index) => plain(fitting(line, width, index > 0))).join("<br>"));
}

function draw({ boxes, lines }) {
  const widest = Math.max(0, ...boxes.map((box) => box.x));
  const deepest = Math.max(0, ...boxes.map((box) => box.y));
  const x = [];
  const y = [];
  for (const [from, to] of lines) {
    x.push(boxes[from].x, boxes[to].x, null);
    y.push(boxes[from].y, boxes[to].y, null);
  }
  const { chosen } = place();
  const kind = `${group} ${[...opened]} ${boxes.length}`;
  const fresh = kind !== drawnAs || !drawn;
  const whole = [-0.7, widest + 0.7];
  if (fresh) revision += 1;
  const edges = { x, y, mode: "lines", type: "scatter", line: { color: "#d3d8e0", width: 1 }, hoverinfo: "skip" };
  const nodes = {
    x: boxes.map((box) => box.x),
    y: boxes.map((box) => box.y),
    type: "scatter",
    mode: "markers+text",
    text: labels(boxes, fresh ? whole : $("drawing").layout.xaxis.range),
    textposition: "bottom center",
    textfont: { size: 10 },
    hovertext: boxes.map((box) => [...box.label, statesText(box)].map(plain).join("<br>")),
    hoverinfo: "text",
    cliponaxis: false,
    marker: {
      opacity: 1,
      color: boxes.map((box) => shared.overview.colours[worst(box.states)]),
      symbol: boxes.map((box) => (box.job ? "circle" : "square")),
      size: boxes.map((box) => (box.job ? 16 : Math.min(40, 18 + 2 * Math.log2(size(box))))),
      line: {
        color: boxes.map((box) => (box.key === chosen.get("job") ? "#1f2430" : "#6b7280")),
        width: boxes.map((box) => (box.key === chosen.get("job") ? 3 : 1)),
      },
    },
  };
  const axis = { visible: false, zeroline: false };
  const layout = {
    xaxis: { ...axis, range: whole },
    yaxis: { ...axis, range: [deepest + 0.6, -0.4] },
    uirevision: revision, // while it stays, Plotly keeps what a person zoomed and moved
    margin: { l: 4, r: 4, t: 4, b: 4 },
    showlegend: false,
    dragmode: "pan",
    hovermode: "closest",
  };
  const first = !drawn;
  drawn = boxes;
  drawnAs = kind;
  $("drawing").dataset.boxes = boxes.length;
  Plotly.react($("drawing"), [edges, nodes], layout, { scrollZoom: true, displaylogo: false, displayModeBar: false, doubleClick: false });
  if (first) watch();
}

function watch() {
  const drawing = $("drawing");
  drawing.on("plotly_click", ({ points }) => {
    const box = points[0].curveNumber === 1 && drawn[points[0].pointNumber];
    if (!box) return;
    if (box.job) go("graph", { job: box.key });
    else {
      opened.add(box.key);
      update();
    }
  });
  drawing.on("plotly_relayout", (change) => {
    if ("xaxis.range[0]" in change) Plotly.restyle(drawing, { text: [labels(drawn, drawing.layout.xaxis.range)] }, [1]);
  });
  drawing.on("plotly_doubleclick", () => {
    drawnAs = "";
    update();
  });
}
