// Tabs, counts, and the line on which news come.

import { $, ask, go, make, place, shared, stateMark } from "./dom.js";
import * as graph from "./graph.js";
import * as table from "./table.js";
import * as outputs from "./outputs.js";
import * as job from "./job.js";

const views = { graph, jobs: table, outputs };

function showCounts(news) {
  const marks = shared.overview.states
    .filter((state) => news.counts[state])
    .map((state) => {
      const mark = stateMark(state, `${state} ${news.counts[state]}`, "button");
      mark.addEventListener("click", () => go("jobs", { state, search: "" }));
      return mark;
    });
  const all = make("span", { id: "all" }, `${news.jobs} jobs, ${news.targets_done} of ${news.targets} targets done`);
  $("counts").replaceChildren(...marks, all);
  const shares = shared.overview.states.filter((state) => news.counts[state]).map((state) => {
    const share = make("span", { "data-state": state, title: `${state} ${news.counts[state]}` });
    share.style.flexGrow = news.counts[state];
    return share;
  });
  $("shares").replaceChildren(...shares);
}

function showNotes(overview) {
  const notes = [];
  if (overview.missing.length) notes.push(`missing inputs: ${overview.missing.join(", ")}`);
  if (overview.waiting_configs.length) notes.push(`more jobs may come of ${overview.waiting_configs.join(", ")}`);
  $("notice").textContent = notes.join(" · ");
  $("notice").hidden = !notes.length;
}

function show() {
  const { tab } = place();
  for (const name of Object.keys(views)) $(name).hidden = name !== tab;
  for (const link of document.querySelectorAll("nav a")) link.classList.toggle("chosen", link.dataset.tab === tab);
  (views[tab] || graph).show();
  job.show();
}

async function refresh() {
  shared.overview = await ask("overview");
  showNotes(shared.overview);
  showCounts(shared.overview);
  show();
}

function listen() {
  const events = new EventSource("/api/events");
  events.onmessage = (event) => {
    const news = JSON.parse(event.data);
    $("live").className = "";
    $("live").textContent = `live · ${new Date(1000 * news.time).toLocaleTimeString()}`;
    if (news.version !== shared.overview.version) refresh();
  };
  events.onerror = () => {
    $("live").className = "lost";
    $("live").textContent = "connection lost";
  };
}

addEventListener("hashchange", show);
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    go(link.dataset.tab, {});
  });
}
for (const view of [graph, table, outputs]) view.start();
await refresh();
$("project").textContent = shared.overview.project;
document.title = `${shared.overview.project} · sisyphus`;
listen();
