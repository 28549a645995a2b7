// Computes what each panel shows of a model from two readings of its counters.

import { bars, lines, stack } from "./charts.js";
import { el, table } from "./dom.js";
import { age, between, bytes, duration, mean, percent, quantile, rate, short, together, total } from "./numbers.js";

const PARTS = [["join", "assembly"], ["run", "run"], ["split", "split and encode"]];
const REASONS = {
  queue_full: "the queue was full", deadline_exceeded: "the deadline had passed", task_too_large: "more rows than a batch may have",
  objective_missed: "an answer would come too late", invalid_task: "inputs with different numbers of rows", closed: "the version was unloading",
};

/** The figures of all versions of a model between two states, or since the start if `earlier` is null. */
export function changes(later, earlier) {
  const seconds = earlier ? later.time - earlier.time : null;
  const before = earlier?.model?.name === later.model.name ? earlier.model : null;
  const calls = later.model.calls.map(call => {
    const same = before?.calls.find(each => ["protocol", "method", "code"].every(key => each[key] === call[key]));
    return { ...call, ...between(call, before ? same ?? { counts: [], sum: 0 } : null) };
  });
  const versions = later.model.versions.filter(version => version.queue).map(version => {
    const old = before?.versions.find(each => each.version === version.version && each.queue);
    const part = read => between(read(version), before ? (old ? read(old) : { counts: [], sum: 0 }) : null);
    const count = read => Math.max(0, read(version) - (old ? read(old) ?? 0 : 0));
    return {
      queue: part(each => each.queue), batch: part(each => each.batch), rows: part(each => each.rows),
      ...Object.fromEntries(PARTS.map(([key]) => [key, part(each => each.parts[key])])),
      padding: count(each => each.padding), failures: count(each => each.failures),
      refusals: Object.fromEntries(Object.keys(version.refusals).map(reason => [reason, count(each => each.refusals[reason])])),
    };
  });
  const all = key => together(versions.map(version => version[key]));
  const refusals = {};
  for (const version of versions) {
    for (const [reason, count] of Object.entries(version.refusals)) refusals[reason] = (refusals[reason] ?? 0) + count;
  }
  return {
    seconds, calls, refusals, queue: all("queue"), batch: all("batch"), rows: all("rows"),
    join: all("join"), run: all("run"), split: all("split"),
    padding: versions.reduce((sum, version) => sum + version.padding, 0),
    failures: versions.reduce((sum, version) => sum + version.failures, 0),
    requests: calls.reduce((sum, call) => sum + total(call.counts), 0),
  };
}

/** The figures at the top. */
export function tiles(now, state) {
  const { latency } = state.bounds, answered = together(now.calls.filter(call => call.code === "OK"));
  const perSecond = now.seconds ? now.requests / now.seconds : null;
  const refused = Object.values(now.refusals).reduce((sum, count) => sum + count, 0);
  const batches = total(now.rows.counts), padded = now.rows.sum + now.padding;
  const waiting = state.model.versions.reduce((sum, version) => sum + (version.waiting ?? 0), 0);
  return [
    tile("requests/s", short(perSecond)),
    tile("median", duration(quantile(answered, latency, 0.5))),
    tile("99th percentile", duration(quantile(answered, latency, 0.99))),
    tile("rows per batch", short(mean(now.rows)), now.seconds && batches ? `${short(batches / now.seconds)} batches/s` : ""),
    tile("padding", percent(padded ? now.padding / padded : null), "of all rows"),
    tile("rows waiting", short(waiting)),
    tile("refused", now.seconds ? `${short(refused / now.seconds)}/s` : short(refused), "", refused > 0),
  ];
}

function tile(name, figure, note = "", bad = false) {
  return el("div", { class: bad ? "tile bad" : "tile" }, el("dt", {}, name), el("dd", {}, figure), note ? el("small", {}, note) : null);
}

/** Calls per second by API over the last two minutes, from the differences between successive states. */
export function callsChart(steps, options) {
  const names = [...new Set(steps.flatMap(step => step?.calls.map(apiOf) ?? []))].sort((a, b) => a.localeCompare(b));
  const series = names.map(name => ({
    name,
    values: steps.map(step => step && step.calls.filter(call => apiOf(call) === name)
      .reduce((sum, call) => sum + total(call.counts), 0) / step.seconds),
  }));
  return lines("Requests per second", series.length ? series : [{ name: "none yet", values: steps.map(() => null) }], { ...options, format: short });
}

function apiOf(call) {
  return `${call.protocol} ${call.method || "status"}${call.code === "OK" ? "" : ` ${call.code}`}`;
}

export function latencyChart(steps, bounds, options) {
  const series = [["median", 0.5], ["95%", 0.95], ["99%", 0.99]].map(([name, share]) => ({
    name,
    values: steps.map(step => step && quantile(together(step.calls.filter(call => call.code === "OK")), bounds.latency, share)),
  }));
  return lines("Latency of whole requests", series, { ...options, format: duration });
}

/** How a request's time is spent: a bar of means, and the percentiles of each part. */
export function partsPanel(now, bounds) {
  const parts = [["queue", "queue", bounds.queue], ...PARTS.map(([key, name]) => [key, name, bounds.latency])];
  const rows = parts.map(([key, name, bound]) => [name, duration(mean(now[key])),
    ...[0.5, 0.95, 0.99].map(share => duration(quantile(now[key], bound, share)))]);
  return [
    stack("Mean time of each part", parts.map(([key, name]) => ({ name, value: mean(now[key]), text: duration(mean(now[key])) }))),
    table("Percentiles of each part", ["part", "mean", "50%", "95%", "99%"], rows, [1, 2, 3, 4]),
  ];
}

export function batchesPanel(now, state) {
  const { rows: bounds } = state.bounds, counts = now.rows.counts;
  const sizes = counts.map((count, bucket) => ({
    name: bucket === 0 ? "1" : bucket >= bounds.length ? `> ${bounds.at(-1)}` : range(bounds[bucket - 1] + 1, bounds[bucket]),
    value: count, text: short(count),
  })).filter((_, bucket) => bucket >= counts.findIndex(count => count > 0));
  const newest = state.model.versions.find(version => version.batching);
  const most = newest?.batching.max_batch_size, average = mean(now.rows);
  const fill = most && average ? ` ${short(average)} of at most ${short(most)} rows: ${percent(average / most)} full.` : "";
  return counts.length
    ? [bars("Batches by number of rows", sizes), el("p", { class: "note" }, `${short(total(counts))} batches.${fill}`)]
    : [el("p", { class: "note" }, "No batch has run.")];
}

function range(low, high) {
  return low === high ? String(low) : `${low}–${high}`;
}

export function queueChart(looks, options) {
  const waiting = look => look.model.versions.reduce((sum, version) => sum + (version.waiting ?? 0), 0);
  const bound = looks.at(-1).model.versions.reduce((most, version) => Math.max(most, version.batching?.queue_rows ?? 0), 0);
  const values = looks.map(look => look.model ? waiting(look) : null);
  const near = bound && Math.max(...values) > bound / 10;
  return [
    lines("Rows waiting", [{ name: "waiting", values }], { ...options, format: short, bound: near ? bound : null }),
    el("p", { class: "note" }, bound ? `At most ${short(bound)} rows may wait; further requests are refused.` : "Requests run one by one."),
  ];
}

export function refusalsPanel(now) {
  const found = Object.entries(now.refusals).filter(([, count]) => count > 0);
  if (now.failures) found.push(["failed runs", now.failures]);
  if (!found.length) return [el("p", { class: "note" }, "Nothing was refused, and no run has failed.")];
  return [bars("Refusals by reason", found.map(([reason, count]) => ({ name: REASONS[reason] ?? reason, value: count, text: short(count), colour: 5 })))];
}

export function versionsPanel(state) {
  const versions = state.model.versions;
  const rows = versions.map(version => [
    String(version.version),
    el("span", { class: `state ${version.state.toLowerCase()}` }, version.error ? "failed" : version.state.toLowerCase()),
    version.error ?? version.runtime ?? "",
    batchesOf(version),
    bytes(version.gpu_memory && Object.values(version.gpu_memory).length ? Object.values(version.gpu_memory).reduce((a, b) => a + b, 0) : null),
  ]);
  const signatures = versions.flatMap(version => (version.signatures ?? []).map(each => [
    `${version.version} ${each.name}`,
    each.inputs.map(input => `${input.name} ${input.text}`).join(", "),
    each.outputs.map(output => `${output.name} ${output.text}`).join(", "),
    el("span", { class: each.batched ? "good" : "plain" }, each.batched ? "batched" : "one by one"),
    [each.verdict.replaceAll("_", " "), each.reason, each.advice].filter(Boolean).join(": "),
  ]));
  return [
    table("Versions", ["version", "state", "runtime", "batches", "GPU memory"], rows),
    table("Signatures", ["signature", "inputs", "outputs", "requests", "verdict"], signatures),
  ];
}

function batchesOf({ batching, signatures }) {
  if (!batching) return signatures ? "one by one" : "";
  const waits = batching.latency_objective ? `objective ${batching.latency_objective}` : `waits ${duration(batching.batch_timeout_micros)}`;
  return `up to ${short(batching.max_batch_size)} rows, ${waits}`;
}

/** How much sampled rows differ from the profile beside the model; empty if there is none. */
export function driftPanel(state) {
  const watched = state.model.versions.filter(version => version.drift);
  return watched.flatMap(({ version, drift }) => [
    table(`Drift of version ${version}`, ["input", "stability index", "column", "missing", "out of range"],
      Object.entries(drift.inputs).map(([name, input]) => [name,
        el("span", { class: input.index > 0.2 ? "bad" : "good" }, short(input.index)), String(input.column), percent(input.missing), percent(input.outside)]),
      [1, 2, 3, 4]),
    ...Object.entries(drift.classes).map(([output, classes]) => bars(`Classes of ${output}`,
      Object.entries(classes).map(([name, share]) => ({ name: `${output} ${name}`, value: share, text: percent(share) })))),
    el("p", { class: "note" }, `Version ${version}: ${short(drift.rows)} recent rows, compared with its profile. An index above 0.2 is a shift.`),
  ]);
}

/** The whole server: CPU, memory by kind, GPUs. */
export function serverPanel(state, earlier) {
  const { process, server, memory } = state, seconds = earlier ? state.time - earlier.time : 0;
  const cpu = rate(process.process_cpu_seconds_total, earlier?.process.process_cpu_seconds_total, seconds);
  const facts = [
    ["CPU", `${percent(earlier ? cpu : null)} of one core; the machine has ${server.cpus}`],
    ["batch threads busy", `${Math.min(server.running, server.threads)} of ${server.threads}`],
    ["resident memory", bytes(process.process_resident_memory_bytes)],
    ["open files", `${short(process.process_open_fds)} of ${short(process.process_max_fds)}`],
    ["up for", process.process_start_time_seconds ? age(state.time - process.process_start_time_seconds) : "–"],
  ];
  if (memory) {
    const held = Object.values(memory.kinds).reduce((sum, size) => sum + size, 0);
    facts.push(["held for callers", `${bytes(held)} of at most ${bytes(memory.limit)}`], ["refused for memory", short(memory.refusals)]);
  }
  return [
    el("dl", { class: "facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    memory ? bars("Memory held for callers, by kind", Object.entries(memory.kinds).map(([kind, size]) => ({ name: kind, value: size, text: bytes(size) }))) : null,
    state.gpus.length ? table("GPUs", ["GPU", "busy", "memory", "power", "temperature"], state.gpus.map(gpu => [
      gpu.device, gpu.utilization === undefined ? "–" : `${gpu.utilization}%`, `${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}`,
      gpu.power_milliwatts === undefined ? "–" : `${short(gpu.power_milliwatts / 1000)} W`, gpu.temperature_celsius === undefined ? "–" : `${gpu.temperature_celsius} °C`,
    ])) : null,
  ];
}

export function optionsPanel(options, all) {
  const shown = all ? options : options.filter(option => option.value !== option.default);
  return shown.length
    ? table("Options in effect", ["option", "value", "default", "description"], shown.map(option =>
      [`--${option.name}`, String(option.value) || "(empty)", String(option.default) || "(empty)", option.help]))
    : el("p", { class: "note" }, "Every option has its default.");
}
