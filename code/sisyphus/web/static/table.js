// The table of jobs: the server searches, filters, sorts and cuts; this shows one page.

import { $, ask, duration, gigabytes, go, latest, make, place, shared, stateMark } from "./dom.js";

const ROWS = 50;
const COLUMNS = [["state", "state"], ["name", "job"], ["class", "class"], ["progress", "progress, or why it failed"], ["time", "time"], ["memory", "memory"]];
const FILTERS = ["state", "class", "block", "tag"];
let sort = "";
let descending = false;
let first = 0;

export function start() {
  const change = latest(async () => {
    first = 0;
    const chosen = { search: $("search").value };
    for (const name of FILTERS) chosen[name] = $(`by-${name}`).value;
    go("jobs", chosen);
  }, 120);
  $("search").addEventListener("input", change);
  for (const name of FILTERS) $(`by-${name}`).addEventListener("change", change);
  $("previous").addEventListener("click", () => turn(-ROWS));
  $("next").addEventListener("click", () => turn(ROWS));
}

function turn(by) {
  first = Math.max(0, first + by);
  update();
}

export function show() {
  const { chosen } = place();
  if (document.activeElement !== $("search")) $("search").value = chosen.get("search") || "";
  const { choices, counts } = shared.overview;
  fill("state", Object.entries(counts), chosen);
  for (const name of ["class", "block", "tag"]) fill(name, choices[name], chosen);
  update();
}

function fill(name, pairs, chosen) {
  const select = $(`by-${name}`);
  const [all] = select.options;
  const value = chosen.get(name) || "";
  const known = pairs.some(([text]) => text === value) || !value ? pairs : [...pairs, [value, 0]];
  select.replaceChildren(all, ...known.map(([text, number]) => make("option", { value: text }, `${text} (${number})`)));
  select.value = value;
  select.hidden = !known.length;
}

const update = latest(async (isLast) => {
  const { chosen } = place();
  const asked = { first, number: ROWS, sort, descending: descending ? 1 : 0, search: chosen.get("search") || "" };
  for (const name of FILTERS) asked[name] = chosen.get(name) || "";
  const { total, rows } = await ask("jobs", asked);
  if (!isLast()) return;
  if (first && first >= total) return turn(-first);
  $("total").textContent = `${total} ${total === 1 ? "job" : "jobs"}`;
  $("page").textContent = total ? `${first + 1}–${Math.min(first + ROWS, total)}` : "";
  $("previous").disabled = !first;
  $("next").disabled = first + ROWS >= total;
  $("job-table").tHead.replaceChildren(make("tr", {}, ...COLUMNS.map(head)));
  $("job-table").tBodies[0].replaceChildren(...rows.map(row));
});

function head([key, text]) {
  const arrow = key === sort ? (descending ? " ↓" : " ↑") : "";
  const turnAround = () => {
    descending = key === sort && !descending;
    sort = key;
    first = 0;
    update();
  };
  return make("th", { onclick: turnAround, class: key === "time" || key === "memory" ? "number" : undefined }, text + arrow);
}

function row(job) {
  const progress = make("td", { class: job.failure ? "failure" : undefined });
  if (job.progress !== null) progress.append(make("progress", { value: job.progress, max: 1 }), ` ${Math.round(100 * job.progress)} % `);
  progress.append(job.info || job.failure);
  return make(
    "tr",
    { "data-job": job.id, class: job.id === place().chosen.get("job") ? "chosen" : undefined, onclick: () => go("jobs", { job: job.id }) },
    make("td", {}, stateMark(job.state)),
    make("td", { title: job.id }, job.name),
    make("td", {}, job.class),
    progress,
    make("td", { class: "number" }, duration(job.wall_s)),
    make("td", { class: "number" }, gigabytes(job.memory_gb)),
  );
}
