// Registered outputs: tables, images, texts, folders.

import { $, ask, go, jobLink, latest, make, place, shared } from "./dom.js";

let drawn = "";

export function start() {
  $("output-search").addEventListener("input", latest(async () => list(), 120));
}

export function show() {
  list();
  const { chosen } = place();
  if (chosen.get("output")) view(chosen.get("output"), chosen.get("number") || "0", chosen.get("inside") || "");
}

const list = latest(async (isLast) => {
  const { total, rows } = await ask("outputs", { search: $("output-search").value });
  if (!isLast()) return;
  const chosen = place().chosen.get("output");
  const item = (row) => {
    const button = make("button", { class: row.name === chosen ? "chosen" : "", onclick: () => go("outputs", { output: row.name, number: "", inside: "" }) }, row.name);
    return make("li", { class: row.done ? "" : "open", "data-state": row.done ? "finished" : "waiting", title: row.done ? row.kind : `${row.kind}, not done` }, button);
  };
  const more = total > rows.length ? [make("li", { class: "hint" }, `and ${total - rows.length} more`)] : [];
  $("output-list").replaceChildren(...rows.map(item), ...more);
});

const view = latest(async (isLast, name, number, inside) => {
  const key = [name, number, inside, shared.overview.version].join("\n");
  if (key === drawn) return;
  const title = make("h2", {}, inside ? `${name} / ${inside}` : name);
  let parts;
  try {
    const answer = await ask("output", { name, number, inside });
    const makers = answer.jobs.flatMap((one) => [" ", jobLink(one)]);
    parts = [make("p", { class: "hint" }, answer.kind === "absent" ? "not there yet; made by" : "made by", ...makers)];
    if (answer.kind !== "absent") parts.push(...content(answer, name, number, inside));
  } catch (error) {
    parts = [make("p", { class: "hint" }, error.message)];
  }
  if (!isLast()) return;
  drawn = key;
  $("output-view").replaceChildren(title, ...parts);
});

function content(answer, name, number, inside) {
  const cut = answer.cut ? [make("p", { class: "hint" }, `the beginning; ${answer.bytes} bytes in all`)] : [];
  if (answer.kind === "markdown") return [...cut, rendered(answer.html)];
  if (answer.kind === "table") return [...cut, table(answer.rows)];
  if (answer.kind === "image") {
    const query = new URLSearchParams({ name, number, inside, of: shared.overview.version });
    return [make("img", { src: `/file?${query}`, alt: name })];
  }
  if (answer.kind === "text") return [...cut, make("pre", {}, answer.text)];
  if (answer.kind === "folder") return [make("ul", {}, ...answer.names.map((entry) => make("li", {}, inner(entry, name, number, inside))))];
  return [make("p", { class: "hint" }, `no text: ${answer.bytes} bytes`)];
}

// The server made this from Markdown, with all HTML in it escaped.
function rendered(html) {
  const element = make("div", { class: "markdown" });
  element.innerHTML = html;
  return element;
}

function table([head = [], ...rows]) {
  const line = (cell) => (cells) => make("tr", {}, ...cells.map((text) => make(cell, {}, text)));
  return make("table", {}, make("thead", {}, line("th")(head)), make("tbody", {}, ...rows.map(line("td"))));
}

function inner(entry, name, number, inside) {
  const path = inside ? `${inside}/${entry.name}` : entry.name;
  return make("button", { class: "link", onclick: () => go("outputs", { output: name, number, inside: path }) }, entry.name + (entry.folder ? "/" : ""));
}
