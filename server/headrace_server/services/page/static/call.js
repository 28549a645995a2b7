// "Try it": a form for a version's signature, the answer to a call, and commands for the same call.

import { byId, el, show } from "./dom.js";
import { duration } from "./numbers.js";
import { restBody, restPath, snippets } from "./snippets.js";

const MOST = 20000; // the maximum number of elements of an example that is shown

export class TryIt {
  /** @param {(path: string, options: object) => Promise<Response>} send Sends a request with the caller's token. */
  constructor(send, hasToken) {
    this.send = send;
    this.hasToken = hasToken;
    this.key = "";
    this.program = 0;
    byId("try-form").addEventListener("submit", event => { event.preventDefault(); this.call(); });
    byId("try-form").addEventListener("keydown", event => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.call(); }
    });
    byId("try-form").addEventListener("input", () => this.write());
    byId("try-version").addEventListener("change", () => this.signatures());
    byId("try-signature").addEventListener("change", () => this.fields());
    byId("try-copy").addEventListener("click", () => this.copy());
  }

  /** Takes the newest state; what the user has typed is kept as long as the model's versions stay the same. */
  update(state) {
    this.state = state;
    const versions = (state.model?.versions ?? []).filter(version => version.signatures);
    const key = JSON.stringify([state.model?.name, versions.map(version => [version.version, version.signatures.map(each => each.name)])]);
    byId("try").hidden = versions.length === 0;
    if (key === this.key) return;
    this.key = key;
    this.model = state.model?.name;
    this.versions = versions;
    show(byId("try-version"), versions.map(version => el("option", { value: version.version }, `version ${version.version}`)));
    this.signatures();
  }

  get version() {
    return this.versions.find(version => String(version.version) === byId("try-version").value);
  }

  get signature() {
    return this.version?.signatures.find(each => each.name === byId("try-signature").value);
  }

  signatures() {
    const every = this.version?.signatures ?? [];
    show(byId("try-signature"), every.map(each => el("option", { value: each.name }, each.name)));
    const usual = every.find(each => each.name === "serving_default");
    if (usual) byId("try-signature").value = usual.name;
    this.fields();
  }

  fields() {
    show(byId("try-inputs"), (this.signature?.inputs ?? []).map(input => el("label", { class: "field" },
      el("span", {}, el("b", {}, input.name), ` ${input.text}`),
      el("textarea", { rows: 3, spellcheck: "false", "data-input": input.name }, example(input)))));
    show(byId("try-answer"));
    this.write();
  }

  /** The call as typed; throws an error if an input is not JSON. */
  typed() {
    const inputs = (this.signature?.inputs ?? []).map(input => {
      const area = byId("try-inputs").querySelector(`[data-input=${CSS.escape(input.name)}]`);
      try {
        return { name: input.name, dtype: input.dtype, value: JSON.parse(area.value) };
      } catch (error) {
        throw new Error(`${input.name} must be JSON: ${error.message}`);
      }
    });
    const { grpc_port: grpcPort, tls } = this.state.server;
    return {
      host: location.hostname, origin: new URL(".", location.href).href, grpcPort, grpcTls: tls.grpc, token: this.hasToken(),
      model: this.model, version: this.version.version, signature: this.signature.name, inputs,
    };
  }

  write() {
    let made = [];
    try {
      made = this.signature ? snippets(this.typed()) : [];
    } catch (error) {
      made = [["curl", `# ${error.message}`]];
    }
    this.program = Math.min(this.program, Math.max(0, made.length - 1));
    this.made = made;
    const tabs = made.map(([name], index) => el("button", {
      type: "button", role: "tab", id: `tab-${index}`, "aria-selected": String(index === this.program), "aria-controls": "try-code",
      tabindex: index === this.program ? 0 : -1,
      onclick: () => this.choose(index),
      onkeydown: event => this.move(event, index),
    }, name));
    show(byId("try-tabs"), tabs);
    byId("try-code").setAttribute("aria-labelledby", `tab-${this.program}`);
    show(byId("try-code"), made[this.program]?.[1] ?? "");
  }

  choose(index) {
    this.program = index;
    this.write();
    byId(`tab-${this.program}`)?.focus();
  }

  move(event, index) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) this.choose((index + step + this.made.length) % this.made.length);
  }

  async copy() {
    await navigator.clipboard?.writeText(byId("try-code").textContent);
    byId("try-copy").textContent = "Copied";
    setTimeout(() => { byId("try-copy").textContent = "Copy"; }, 1500);
  }

  async call() {
    const answer = byId("try-answer"), button = byId("try-send");
    button.disabled = true;
    try {
      const typed = this.typed(), began = performance.now();
      const response = await this.send(restPath(typed), { method: "POST", body: restBody(typed) });
      const text = await response.text(), took = duration((performance.now() - began) * 1000);
      show(answer, el("p", { class: response.ok ? "good" : "bad" }, `${response.status} ${response.statusText} in ${took}`),
        el("pre", { tabindex: 0 }, pretty(text)));
    } catch (error) {
      show(answer, el("p", { class: "bad" }, error.message));
    } finally {
      button.disabled = false;
    }
  }
}

/** JSON in which each row of an array is a line. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1).replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inner) => `[${inner.replace(/\s*\n\s*/g, " ")}]`);
  } catch {
    return text;
  }
}

/** Zeros in an input's shape, with size 1 for each open dimension; empty if these are too many to type. */
function example(input) {
  const shape = input.shape ?? [];
  if (shape.reduce((product, size) => product * (size ?? 1), 1) > MOST) return "";
  const value = { DT_STRING: "text", DT_BOOL: false }[input.dtype] ?? 0;
  return JSON.stringify(shape.reduceRight((inner, size) => Array(size ?? 1).fill(inner), value));
}
