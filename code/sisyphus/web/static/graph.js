// The graph from left to right: boxes and lines with places from the server, drawn by Plotly, which zooms and moves.

import { $, ask, colourOf, go, latest, place, shared, styleOf } from "./dom.js";

const LETTER = 6.2; // pixels
const LINE = 13;
const MOST_CURVES = 1500; // of more lines each is straight
const BENDS = Array.from({ length: 17 }, (_, index) => index / 16);
const NODES = 2; // which trace they are
const BAR = 44; // pixels: a box of several jobs is a bar of their states
const MOST_BARS = 300; // more boxes are squares in the colour of their worst state
let opened = []; // keys of boxes
let group = null;
let accepted = null; // group and opened of what is drawn
let drawn = null;
let drawnAs = "";
let drawnKind = "";
let revision = 0;
let isHeld = false; // the mouse is down on the drawing: a new one would end its movement
let missed = null; // what came meanwhile

export function start() {
  $("drawing").addEventListener("mousedown", () => (isHeld = true), true);
  addEventListener("mouseup", () => setTimeout(letGo), true); // after Plotly's own
  $("group").addEventListener("change", () => choose($("group").value, []));
  $("collapse").addEventListener("click", () => choose(group, []));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawnAs = "";
    update();
  });
  new ResizeObserver(() => {
    if (drawn && !$("graph").hidden) Plotly.Plots.resize($("drawing")).then(relabel);
  }).observe($("drawing"));
}

export function show() {
  if (group === null) {
    group = shared.overview.group;
    $("group").value = group;
  }
  update();
}

function letGo() {
  isHeld = false;
  const answer = missed;
  missed = null;
  if (answer) draw(answer);
}

function choose(newGroup, newOpened) {
  group = newGroup;
  opened = newOpened;
  $("drawing-error").hidden = true;
  update();
}

const update = latest(async (isLast) => {
  let answer;
  try {
    answer = await ask("graph", { group, open: opened });
  } catch (error) {
    if (!isLast()) return;
    $("drawing-error").textContent = error.message;
    $("drawing-error").hidden = false;
    if (accepted) ({ group, opened } = accepted); // what is refused leaves all as it was
    $("group").value = group;
    return;
  }
  if (!isLast()) return;
  accepted = { group, opened };
  $("collapse").hidden = !group;
  $("collapse").disabled = !opened.length;
  draw(answer);
}, 30);

// From bad to harmless.
const sorted = (states) => Object.entries(states).sort(([a], [b]) => shared.overview.states.indexOf(b) - shared.overview.states.indexOf(a));

const size = (box) => Object.values(box.states).reduce((a, b) => a + b, 0);
const statesText = (box) => sorted(box.states).map(([state, number]) => (size(box) > 1 ? `${state} ${number}` : state)).join(", ");

// Plotly reads some HTML in texts: it must not find any in ours.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const last = (text) => text.split(" / ").pop();

// Of a class the beginning counts; of a name the end, because many have their beginning in common.
function fitting(text, width, isName) {
  const most = Math.floor(width / LETTER);
  if (text.length <= most) return text;
  return isName ? `…${text.slice(1 - most)}` : `${text.slice(0, most - 1)}…`;
}

// How boxes look at a zoom, given as the ranges of both axes: with labels as long and as high as there is room.
function looks(boxes, { x, y }) {
  const width = $("drawing").clientWidth / Math.max(0.5, x[1] - x[0]) - (boxes.some((box) => !box.job) ? 50 : 34);
  const height = $("drawing").clientHeight / Math.max(0.5, y[0] - y[1]);
  const asBars = boxes.filter((box) => !box.job).length <= MOST_BARS;
  const high = (box) => Math.min(14, Math.max(4, 0.7 * height * box.room));
  return {
    text: boxes.map((box) => (width < 5 * LETTER ? "" : label(box, width, Math.floor((height * box.room) / LINE)))),
    size: boxes.map((box) => (asBars && !box.job ? BAR : high(box))),
    shapes: asBars ? boxes.filter((box) => !box.job).flatMap((box) => bar(box, high(box) / 2)) : [],
    asBars,
  };
}

function label(box, width, lines) {
  if (!lines) return "";
  const [first, second] = box.job ? box.label : [last(box.label[0]), `${box.label[1]}: ${statesText(box)}`];
  const above = fitting(first, width / 1.1, false);
  if (lines > 1) return `<b>${plain(above)}</b><br>${plain(fitting(second, width, box.job))}`;
  const rest = width - 1.1 * LETTER * (above.length + 1);
  if (rest > 8 * LETTER) return `<b>${plain(above)}</b> ${plain(fitting(second, rest, box.job))}`;
  return box.job ? plain(fitting(second, width, true)) : `<b>${plain(above)}</b>`;
}

// A box of several jobs: how many are in which state.
function bar(box, half) {
  let end = -BAR / 2;
  return sorted(box.states).map(([state, number]) => {
    const begin = end;
    end += (BAR * number) / size(box);
    const there = { xanchor: box.y, yanchor: box.x, x0: begin, x1: end, y0: -half, y1: half };
    return { type: "rect", xsizemode: "pixel", ysizemode: "pixel", ...there, fillcolor: colourOf(state), line: { width: 0 } };
  });
}

function relabel() {
  const { xaxis, yaxis } = $("drawing").layout;
  const { text, size, shapes } = looks(drawn, { x: xaxis.range, y: yaxis.range });
  return Plotly.update($("drawing"), { text: [text], "marker.size": [size] }, { shapes }, [NODES]);
}

// Lines leave and arrive level.
function curves(boxes, lines) {
  const x = [];
  const y = [];
  for (const [from, to] of lines) {
    const [a, b] = [boxes[from], boxes[to]];
    for (const t of lines.length > MOST_CURVES ? [0, 1] : BENDS) {
      x.push(a.y + (b.y - a.y) * t);
      y.push(a.x + (b.x - a.x) * t * t * (3 - 2 * t));
    }
    x.push(null);
    y.push(null);
  }
  return { x, y, mode: "lines", type: "scatter", hoverinfo: "skip" };
}

function draw(answer) {
  if (isHeld) {
    missed = answer;
    return;
  }
  const { boxes, lines } = answer;
  const chosen = place().chosen.get("job");
  const as = JSON.stringify([group, chosen, boxes, lines]);
  if (as === drawnAs) return;
  const kind = `${group} ${opened} ${boxes.length}`;
  const fresh = kind !== drawnKind || !drawnAs;
  const widest = Math.max(0, ...boxes.map((box) => box.x));
  const deepest = Math.max(0, ...boxes.map((box) => box.y));
  const whole = { x: [-0.15, deepest + 0.95], y: [widest + 0.7, -0.7] };
  if (fresh) revision += 1;
  const { xaxis, yaxis } = fresh ? {} : $("drawing").layout;
  const text = styleOf("--text");
  const look = looks(boxes, fresh ? whole : { x: xaxis.range, y: yaxis.range });
  const isBar = (box) => look.asBars && !box.job;
  const isChosen = (box) => box.key === chosen;
  const near = lines.filter(([from, to]) => isChosen(boxes[from]) || isChosen(boxes[to]));
  const nodes = {
    x: boxes.map((box) => box.y),
    y: boxes.map((box) => box.x),
    type: "scatter",
    mode: "markers+text",
    text: look.text,
    textposition: "middle right",
    textfont: { size: 10.5, color: text },
    hovertext: boxes.map((box) => [...box.label, statesText(box), ...(box.note ? [fitting(box.note, 600, false)] : [])].map(plain).join("<br>")),
    hoverinfo: "text",
    hoverlabel: { align: "left" },
    cliponaxis: false,
    marker: {
      opacity: 1,
      color: boxes.map((box) => (isBar(box) ? "rgba(0,0,0,0)" : colourOf(sorted(box.states)[0][0]))),
      symbol: boxes.map((box) => (box.job ? "circle" : "square")),
      size: look.size,
      line: { color: boxes.map((box) => (isChosen(box) ? text : styleOf("--page"))), width: boxes.map((box) => (isBar(box) ? 0 : isChosen(box) ? 3 : 1)) },
    },
  };
  const axis = { visible: false, zeroline: false };
  const layout = {
    xaxis: { ...axis, range: whole.x },
    yaxis: { ...axis, range: whole.y },
    uirevision: revision, // while it stays, Plotly keeps what a person zoomed and moved
    shapes: look.shapes,
    margin: { l: 4, r: 4, t: 4, b: 4 },
    showlegend: false,
    dragmode: "pan",
    hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
  };
  const edges = { ...curves(boxes, lines), line: { color: styleOf("--edge"), width: 1 } };
  const marked = { ...curves(boxes, near), line: { color: styleOf("--accent"), width: 1.6 } };
  const first = !drawn;
  drawn = boxes;
  drawnAs = as;
  drawnKind = kind;
  $("drawing").dataset.boxes = boxes.length;
  Plotly.react($("drawing"), [edges, marked, nodes], layout, { scrollZoom: true, displaylogo: false, displayModeBar: false, doubleClick: false });
  if (first) watch();
}

function watch() {
  const drawing = $("drawing");
  drawing.on("plotly_click", ({ points }) => {
    const box = points[0].curveNumber === NODES && drawn[points[0].pointNumber];
    if (!box) return;
    if (box.job) go("graph", { job: box.key });
    else choose(group, [...opened, box.key]);
  });
  drawing.on("plotly_relayout", (change) => {
    if ("xaxis.range[0]" in change) relabel();
  });
  drawing.on("plotly_doubleclick", () => {
    drawnAs = "";
    update();
  });
}
