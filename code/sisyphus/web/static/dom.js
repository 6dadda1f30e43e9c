// Elements and answers. Text goes into the page as text only, never as HTML.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export async function ask(name, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) query.append(key, one);
  }
  return read(await fetch(`/api/${name}?${query}`));
}

export async function act(action, job) {
  const body = JSON.stringify({ action, job });
  return read(await fetch("/api/control", { method: "POST", headers: { "Content-Type": "application/json" }, body }));
}

async function read(response) {
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Of calls that overlap only the last one counts; of calls in quick succession only the last is made.
export function latest(work, delay = 0) {
  let number = 0;
  let timer;
  return (...args) => {
    const mine = ++number;
    clearTimeout(timer);
    const run = () => work(() => mine === number, ...args).catch((error) => { if (mine === number) notice(error.message); });
    if (delay) timer = setTimeout(run, delay);
    else run();
  };
}

export function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  if (minutes < 100) return `${minutes}:${two(seconds % 60)} min`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)} h`;
}

export const gigabytes = (number) => (number === null || number === undefined ? "" : `${number.toFixed(2)} GB`);

// What all views know: the last overview, and where the person is.
export const shared = { overview: null };

export const stateMark = (state, text = state, tag = "span") => make(tag, { class: "state", "data-state": state }, text);

// Colours stand in the style sheet only; Plotly must be told them.
export const styleOf = (name, element = document.documentElement) => getComputedStyle(element).getPropertyValue(name).trim();

export function colourOf(state) {
  if (!colours.has(state)) {
    const mark = document.body.appendChild(make("i", { "data-state": state, hidden: true }));
    colours.set(state, styleOf("--state", mark));
    mark.remove();
  }
  return colours.get(state);
}

const colours = new Map();

// The address after #: tab, then what is chosen: #jobs?job=ID&search=...
export function place() {
  const [tab, query] = location.hash.slice(1).split("?");
  return { tab: tab || "graph", chosen: new URLSearchParams(query || "") };
}

export function go(tab, changes) {
  const { chosen } = place();
  for (const [key, value] of Object.entries(changes)) {
    if (value) chosen.set(key, value);
    else chosen.delete(key);
  }
  location.hash = `${tab}?${chosen}`;
}

export function jobLink({ id, name, state }) {
  const show = () => go(place().tab, { job: id });
  return make("button", { class: "link", "data-state": state, title: `${id}: ${state}`, onclick: show }, name);
}
