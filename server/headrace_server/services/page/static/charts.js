// Charts as SVG: lines over the last two minutes, bars, and one bar of several parts.

import { el, svg } from "./dom.js";

const WIDTH = 600, HEIGHT = 150, LEFT = 64, BOTTOM = 18, TOP = 8;

/**
 * Lines over time.
 * @param {string} label A description of the chart for screen readers.
 * @param {{name: string, values: (number|null)[]}[]} series One value for each state, the newest last.
 * @param {{format: (value: number) => string, seconds: number, looks: number, bound?: number}} options
 *   `looks` is the number of states that fit into the width, `seconds` the age of the first of them.
 */
export function lines(label, series, { format, seconds, looks, bound = null }) {
  const known = series.flatMap(each => each.values).filter(value => value !== null);
  const top = nice(Math.max(bound ?? 0, ...known));
  const x = (index, length) => LEFT + (WIDTH - LEFT) * (looks - length + index) / Math.max(1, looks - 1);
  const y = value => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const newest = series.map(each => `${each.name} ${format(each.values.at(-1) ?? null)}`).join(", ");
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${label}: ${newest}`, class: "chart" },
    ...[0, 0.5, 1].map(part => svg("g", {},
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(part * top), y2: y(part * top) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(part * top) + 4, "text-anchor": "end" }, format(part * top)))),
    svg("text", { class: "tick", x: LEFT, y: HEIGHT - 3 }, `${seconds} s ago`),
    svg("text", { class: "tick", x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, "now"),
    bound === null ? null : svg("line", { class: "bound", x1: LEFT, x2: WIDTH, y1: y(bound), y2: y(bound) }),
    ...series.map((each, number) => svg("path", { class: `line c${number % 6}`, d: path(each.values, x, y) })));
  return el("figure", {}, drawing, legend(series.map(each => [each.name, format(each.values.at(-1) ?? null)])));
}

/** Bars, each with its name, its value and its text. */
export function bars(label, parts) {
  const top = Math.max(1, ...parts.map(part => part.value));
  return el("ul", { class: "bars", "aria-label": label }, ...parts.map(part =>
    el("li", {},
      el("span", { class: "name" }, part.name),
      svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "bar", "aria-hidden": "true" },
        svg("rect", { class: "track", width: 100, height: 10 }),
        svg("rect", { class: `fill c${part.colour ?? 0}`, width: 100 * part.value / top, height: 10 })),
      el("span", { class: "number" }, part.text))));
}

/** One bar of several parts, by their shares of the whole. */
export function stack(label, parts) {
  const whole = parts.reduce((sum, part) => sum + (part.value ?? 0), 0) || 1;
  let begin = 0;
  const drawn = parts.map((part, number) => {
    const width = 100 * (part.value ?? 0) / whole;
    begin += width;
    return svg("rect", { class: `fill c${number % 6}`, x: begin - width, width, height: 10 });
  });
  return el("figure", {},
    svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "stack", role: "img",
      "aria-label": `${label}: ${parts.map(part => `${part.name} ${part.text}`).join(", ")}` }, ...drawn),
    legend(parts.map(part => [part.name, part.text])));
}

function legend(entries) {
  return el("figcaption", { class: "legend" }, ...entries.map(([name, text], number) =>
    el("span", {}, el("i", { class: `dot c${number % 6}` }), `${name} `, el("b", {}, text))));
}

function path(values, x, y) {
  let drawn = "", pen = false;
  values.forEach((value, index) => {
    if (value === null) pen = false;
    else {
      drawn += `${pen ? "L" : "M"}${x(index, values.length).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = true;
    }
  });
  return drawn;
}

/** The next 1, 2 or 5 times a power of ten. */
function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find(step => step * power >= value * 0.999) * power;
}
