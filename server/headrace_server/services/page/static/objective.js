// The estimates of a model's queues with a latency objective: run times by size, arrivals, their choices, and the reasons.

import { lines } from "./charts.js";
import { el, table } from "./dom.js";
import { duration, percent, short } from "./numbers.js";

const milliseconds = value => duration(value === null || value === undefined ? null : value * 1000);

/** One part for each signature of each version with an objective; empty if there is none. */
export function objectivePanel(looks, options) {
  return looks.at(-1).model.versions.flatMap(version =>
    Object.entries(version.objectives ?? {}).map(([signature, beliefs]) => {
      const past = looks.map(look => look.model.versions.find(each => each.version === version.version)?.objectives?.[signature] ?? null);
      return el("section", { class: "objective", "aria-label": `Version ${version.version}, ${signature}` },
        el("p", {}, el("b", {}, beliefs.objective), ` for ${signature} of version ${version.version}: ${beliefs.reason}.`),
        facts(beliefs), el("div", { class: "pair" }, latencies(past, beliefs, options), runTimes(beliefs)));
    }));
}

function facts(beliefs) {
  const { chosen } = beliefs, late = beliefs.latency_ms > beliefs.objective_ms;
  const every = [
    ["a full batch has", `${short(chosen.batch_size)} rows`],
    ["other batches wait", milliseconds(chosen.wait_ms)],
    ["refused if it cannot run within", milliseconds(chosen.start_within_ms)],
    ["planned with", `${milliseconds(beliefs.aimed_ms)} of ${milliseconds(beliefs.objective_ms)}`],
    ["latency now", el("span", { class: late ? "bad" : "good" }, milliseconds(beliefs.latency_ms))],
    ["late answers", percent(beliefs.late_share)],
    ["rows arrive", `${short(beliefs.rows_per_second)}/s`],
    ["rows per batch", short(beliefs.rows_per_batch)],
    ["threads busy", `${percent(beliefs.busy_share)} of ${beliefs.threads}`],
    ["refused because of the objective", short(beliefs.refused)],
  ];
  return el("dl", { class: "facts" }, ...every.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function latencies(past, beliefs, options) {
  const series = [
    ["latency", each => each.latency_ms], ["wait chosen", each => each.chosen.wait_ms], ["planned with", each => each.aimed_ms],
  ].map(([name, read]) => ({ name, values: past.map(each => each && 1000 * read(each)) }));
  return lines("Latency, wait and plan", series, { ...options, format: duration, bound: 1000 * beliefs.objective_ms });
}

function runTimes(beliefs) {
  if (!beliefs.run_times.length) return el("p", { class: "note" }, "Nothing has run yet.");
  const rows = beliefs.run_times.map(each => [short(each.batch_size), milliseconds(each.typical_ms), milliseconds(each.high_ms),
    `${short(1000 * each.batch_size / each.typical_ms)}/s`]);
  return el("div", { class: "tall" }, table("Estimated run times", ["rows", "typical run", "slow run", "rows of one thread"], rows, [0, 1, 2, 3]));
}
