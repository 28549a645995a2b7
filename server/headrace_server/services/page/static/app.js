// Requests the server's state once a second while the page is visible, and shows it.

import { TryIt } from "./call.js";
import { byId, el, show } from "./dom.js";
import { rate, short } from "./numbers.js";
import { objectivePanel } from "./objective.js";
import * as panels from "./panels.js";

const EVERY = 1000; // milliseconds between two requests of the state
const LOOKS = 120; // states that are kept
const WINDOW = 10; // states over which figures and percentiles are computed
const TOKEN = "headrace-token", THEME = "headrace-theme";

let looks = [];
let selected = new URLSearchParams(location.hash.slice(1)).get("model") ?? "";
let timer = 0;
let paused = false;
let allOptions = false;
let allOfThem = null; // the options in effect, which do not change while a server runs

const token = () => sessionStorage.getItem(TOKEN) ?? "";
const tryIt = new TryIt(send, () => token() !== "");

/** Sends a request to this server, with the token if the user has given one. */
function send(path, options = {}) {
  const headers = { ...options.headers, ...(token() ? { Authorization: `Bearer ${token()}` } : {}) };
  return fetch(path, { cache: "no-store", ...options, headers });
}

async function look() {
  clearTimeout(timer);
  const asked = selected;
  try {
    const response = await send(`page/state?model=${encodeURIComponent(asked)}`);
    if (response.status === 401 || response.status === 403) return askForToken(response.status);
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const state = await response.json();
    await fetchOptions(state);
    byId("token").hidden = true;
    if (asked === selected) take(state);
    link("live", "live");
  } catch (error) {
    link("lost", `no answer: ${error.message}`);
  }
  if (!paused && !document.hidden) timer = setTimeout(look, EVERY);
}

function take(state) {
  const last = looks.at(-1);
  if (last && last.time === state.time) return; // a state that has been shown already: the server repeats it for a while
  if (last && last.process.process_start_time_seconds !== state.process.process_start_time_seconds) looks = []; // the server was restarted
  looks = [...looks, state].slice(-LOOKS);
  render();
}

async function fetchOptions(state) {
  const started = state.process.process_start_time_seconds;
  if (allOfThem?.started === started) return;
  const response = await send("page/options");
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  allOfThem = { started, options: await response.json() };
  show(byId("options-panel"), panels.optionsPanel(allOfThem.options, allOptions));
}

function askForToken(status) {
  byId("token").hidden = false;
  byId("token-why").textContent = status === 401 ? "This server asks for a token." : "This token does not have the right to see the page.";
  link("lost", "a token is needed");
  byId("token-value").focus();
}

function link(state, text) {
  byId("link").className = `link ${state}`;
  byId("link-text").textContent = paused && state === "live" ? "paused" : text;
}

function render() {
  const state = looks.at(-1);
  byId("about").textContent = `${state.server.version}, ${state.server.transport} transport`;
  models(state);
  show(byId("server-panel"), panels.serverPanel(state, looks.at(-1 - WINDOW) ?? (looks.length > 1 ? looks[0] : null)));
  byId("model").hidden = state.model === null;
  byId("none").hidden = state.model !== null;
  if (state.model === null) return;
  if (!selected) selected = state.model.name;
  document.title = `${state.model.name} · headrace`;
  byId("model-name").textContent = state.model.name;
  const own = looks.filter(each => each.model?.name === state.model.name);
  draw(state, own);
  tryIt.update(state);
}

/** Shows the figures of the last seconds, or, if there were no calls in them, the figures since the start. */
function draw(state, own) {
  const earlier = own.at(-1 - WINDOW) ?? (own.length > 1 ? own[0] : null);
  const recent = panels.changes(state, earlier);
  const quiet = !earlier || recent.requests + recent.rows.sum === 0;
  const now = quiet ? panels.changes(state, null) : recent;
  byId("span").textContent = quiet ? "No calls in the last seconds: these are the figures since the start." : `The figures of the last ${Math.round(now.seconds)} seconds.`;
  const steps = own.slice(1).map((later, index) => panels.changes(later, own[index]));
  const charts = { looks: LOOKS, seconds: Math.round(LOOKS * EVERY / 1000) };
  show(byId("tiles"), panels.tiles(now, state));
  show(byId("calls-panel"), panels.callsChart(steps, charts));
  show(byId("latency-panel"), panels.latencyChart(steps, state.bounds, charts));
  show(byId("parts-panel"), panels.partsPanel(now, state.bounds));
  show(byId("batches-panel"), panels.batchesPanel(now, state));
  show(byId("queue-panel"), panels.queueChart(own, charts));
  show(byId("refusals-panel"), panels.refusalsPanel(now));
  const drift = panels.driftPanel(state);
  byId("drift").hidden = drift.length === 0;
  show(byId("drift-panel"), drift);
  const objective = objectivePanel(own, charts);
  byId("objective").hidden = objective.length === 0;
  show(byId("objective-panel"), objective);
  show(byId("versions-panel"), panels.versionsPanel(state));
}

function models(state) {
  const before = looks.at(-2);
  const focused = document.activeElement?.dataset?.model;
  show(byId("models"), state.models.map(model => {
    const old = before?.models.find(each => each.name === model.name);
    const perSecond = before ? rate(model.calls, old?.calls, state.time - before.time) : null;
    const bad = model.versions.some(([, version]) => version === "END");
    const ready = model.versions.some(([, version]) => version === "AVAILABLE");
    return el("li", {}, el("button", {
      type: "button", "data-model": model.name, "aria-current": model.name === state.model?.name ? "true" : null,
      onclick: () => choose(model.name),
    },
    el("i", { class: `dot ${bad ? "failed" : ready ? "available" : "loading"}`, title: bad ? "a version has failed" : ready ? "ready" : "not ready" }),
    el("span", { class: "name" }, model.name), el("span", { class: "number" }, perSecond === null ? "" : `${short(perSecond)}/s`)));
  }));
  if (focused !== undefined) byId("models").querySelector(`[data-model=${CSS.escape(focused)}]`)?.focus();
}

function choose(name) {
  if (name === selected) return;
  selected = name;
  history.replaceState(null, "", `#${new URLSearchParams({ model: name })}`);
  look();
}

byId("options-all").addEventListener("click", () => {
  allOptions = !allOptions;
  byId("options-all").textContent = allOptions ? "Show only changed options" : "Show all options";
  if (allOfThem) show(byId("options-panel"), panels.optionsPanel(allOfThem.options, allOptions));
});

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").textContent = paused ? "Resume" : "Pause";
  byId("pause").setAttribute("aria-pressed", String(paused));
  look();
});

byId("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem(THEME, document.documentElement.dataset.theme);
});

byId("token-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token-value").value.trim());
  byId("token-value").value = "";
  look();
});

document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) look(); });

const theme = localStorage.getItem(THEME);
if (theme) document.documentElement.dataset.theme = theme;
look();
