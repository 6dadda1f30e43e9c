// One job: what it is, does, prints, used, is made from, and why it is not another one.

import { $, act, ask, duration, gigabytes, go, jobLink, latest, make, notice, place, shared, stateMark, styleOf } from "./dom.js";

let shown = null; // id of the job whose parts stand in the page
let log = ""; // name of the log that was chosen
let logSize = -1;
let version = -1;

export function show() {
  const id = place().chosen.get("job");
  $("job").hidden = !id;
  if (id) update(id);
  else shown = null;
}

const update = latest(async (isLast, id) => {
  if (shown === id && version === shared.overview.version) return;
  const job = await ask("job", { id });
  if (!isLast()) return;
  if (shown !== id) {
    shown = id;
    log = "";
    $("job").replaceChildren(...["head", "facts", "resources", "log", "why"].map((part) => make("div", { id: `job-${part}` })));
    $("job").scrollTop = 0;
    showWhy(id);
  }
  version = job.version;
  showHead(job);
  showFacts(job);
  showResources(job);
  await showLog(job);
});

function showHead(job) {
  const close = make("button", { class: "close", onclick: () => go(place().tab, { job: "" }) }, "close");
  const parts = [close, make("h2", {}, job.name), stateMark(job.state)];
  if (job.progress !== null) parts.push(" ", make("progress", { value: job.progress, max: 1 }), ` ${Math.round(100 * job.progress)} %`);
  if (job.info) parts.push(` ${job.info}`);
  const why = job.broken || job.failure;
  if (why) parts.push(make("div", { class: "failure-box error" }, why));
  if (shared.overview.control) {
    const button = (action) => make("button", { "data-action": action, onclick: () => doIt(action, job.id) }, action);
    parts.push(make("p", { class: "bar" }, button(job.state === "hold" ? "release" : "hold"), button("cancel"), button("retry")));
  }
  $("job-head").replaceChildren(...parts);
}

async function doIt(action, id) {
  if (action === "cancel" && !confirm(`Stop what runs or is queued of ${id}, and hold it?`)) return;
  try {
    await act(action, id);
    notice("");
  } catch (error) {
    notice(error.message);
  }
}

const lines = (items) => items.flatMap((item, index) => (index ? [make("br"), item] : [item]));

function rows(pairs) {
  return make("dl", {}, ...pairs.filter(([, value]) => value && value.length).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, ...[value].flat())]));
}

function showFacts(job) {
  const used = job.usage;
  const task = (one) => `${one.name}: ${one.state}${one.num_ids > 1 ? `, ${one.num_ids} ids` : ""} (${Object.entries(one.rqmt).map(([name, value]) => `${name} ${value}`).join(", ")})`;
  $("job-facts").replaceChildren(rows([
    ["id", job.id],
    ["folder", job.folder],
    ["aliases", job.aliases.join(", ")],
    ["made at", job.made_at],
    ["block", job.block],
    ["tags", job.tags.join(", ")],
    ["needed for", job.needed_for.join(", ")],
    ["tasks", lines(job.tasks.map(task))],
    ["used", used ? `${duration(used.wall_s)}, cpu ${duration(used.cpu_s)}, at most ${gigabytes(used.peak_memory_gb)}, on ${used.hosts.join(", ")}` : ""],
    ["gpus", used ? lines(used.gpu.map((one) => Object.entries(one).map(([name, value]) => `${name} ${value}`).join(", "))) : []],
    ["made from", lines(job.inputs.map(jobLink))],
    ["other inputs", lines(job.outside_inputs)],
    ["used by", lines(job.users.map(jobLink))],
    ["outputs", lines(job.outputs)],
  ]));
}

function showResources(job) {
  const place = $("job-resources");
  if (!job.series.some(({ points }) => points.length > 1)) {
    place.replaceChildren();
    return;
  }
  if (!place.firstChild) place.append(make("h3", {}, "Resources"), make("div", { class: "plot" }));
  const traces = job.series.flatMap(({ task, points }) => [
    { x: points.map((point) => point[0]), y: points.map((point) => point[1]), name: `memory ${task}`, mode: "lines+markers", marker: { size: 4 } },
    { x: points.map((point) => point[0]), y: points.map((point) => point[2]), name: `cpu ${task}`, yaxis: "y2", mode: "lines+markers", marker: { size: 4 } },
  ]);
  const axis = { gridcolor: styleOf("--line"), linecolor: styleOf("--line"), zerolinecolor: styleOf("--line") };
  const layout = {
    margin: { l: 50, r: 50, t: 8, b: 36 },
    xaxis: { ...axis, title: { text: "s" } },
    yaxis: { ...axis, title: { text: "GB" }, rangemode: "tozero" },
    yaxis2: { ...axis, title: { text: "% cpu" }, overlaying: "y", side: "right", rangemode: "tozero", showgrid: false },
    legend: { orientation: "h", y: 1.2 },
    font: { color: styleOf("--text") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
  };
  Plotly.react(place.lastChild, traces, layout, { displayModeBar: false, responsive: true });
}

async function showLog(job) {
  const part = $("job-log");
  if (!job.logs.length) {
    part.replaceChildren();
    return;
  }
  const name = job.logs.includes(log) ? log : job.logs[job.logs.length - 1];
  const answer = await ask("log", { id: job.id, name });
  if (shown !== job.id) return;
  let text = part.querySelector("pre");
  if (!text) {
    const select = make("select");
    select.addEventListener("change", () => {
      log = select.value;
      showLog(job);
    });
    text = make("pre");
    part.replaceChildren(make("h3", {}, "Log ", select), text);
    logSize = -1;
  }
  const select = part.querySelector("select");
  select.replaceChildren(...job.logs.map((one) => make("option", { value: one }, one)));
  select.value = name;
  const key = `${name} ${answer.bytes}`;
  if (key === logSize) return;
  logSize = key;
  const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 30;
  text.textContent = (answer.cut ? `… (${answer.bytes} bytes in all)\n` : "") + answer.text;
  if (atEnd || !text.scrollTop) text.scrollTop = text.scrollHeight;
}

async function showWhy(id) {
  const part = $("job-why");
  part.replaceChildren(make("h3", {}, "Arguments"), make("p", { class: "hint" }, "…"));
  let why;
  try {
    why = await ask("why", { id });
  } catch (error) {
    if (shown === id) part.replaceChildren(make("h3", {}, "Arguments"), make("p", { class: "error" }, error.message));
    return;
  }
  if (shown !== id) return;
  const of = (counts) => why.arguments.filter((one) => one.counts === counts).map((one) => [one.place, one.text]);
  const parts = [make("h3", {}, "Arguments"), rows([...of(true), ["__sis_version__", why.version], ["commit", why.commit]])];
  if (of(false).length) parts.push(make("p", { class: "hint" }, "that do not count for the id:"), rows(of(false)));
  parts.push(make("h3", {}, "Why another id"));
  if (why.other) {
    const closest = why.num_others ? `, the closest of ${why.num_others} other folders of its class` : "";
    parts.push(make("p", {}, "compared with ", why.other, closest));
    for (const one of why.differences) {
      parts.push(make("div", {}, `${one.where}: `, make("span", { class: "old" }, one.old), " → ", make("span", { class: "new" }, one.new)));
    }
  } else parts.push(make("p", { class: "hint" }, "no other folder of its class to compare with"));
  part.replaceChildren(...parts);
}
