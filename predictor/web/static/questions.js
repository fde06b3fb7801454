// What the form asks, as queries of the API and as the address of the page.

const FORM = document.getElementById("ask");
const field = (key) => FORM.querySelector(`[data-key="${key}"]`);
const KEYS = [...FORM.querySelectorAll("[data-key]")].map((input) => input.dataset.key);

/** Files of one's own that the server keeps, by what they are of; null: none. Scores are several. */
export const own = { trace: null, prices: null, scores: [] };

export const PRESETS = {
  chat: { unit: "users", amount: 32, input_len: 1000, output_len: 300, cached: 0, ttft_p99: 1, tpot: 50 },
  rag: { unit: "request_rate", amount: 5, input_len: 6000, output_len: 300, cached: 0, ttft_p99: 3, tpot: 50 },
  agent: { unit: "users", amount: 16, input_len: 12000, output_len: 500, cached: 70, ttft_p99: 3, tpot: 30 },
  batch: { unit: "concurrency", amount: 512, input_len: 2000, output_len: 500, cached: 0, ttft_p99: "", tpot: "" },
};

export const mode = () => FORM.elements.mode.value;

/** What each field of the form says, by its name in the address. */
export function state() {
  const said = { mode: mode(), model: FORM.querySelector("#model").value.trim() };
  for (const id of ["amount", "unit", "train_tokens"]) said[id] = document.getElementById(id).value.trim();
  for (const key of KEYS) said[key] = field(key).value.trim();
  return said;
}

/** Fill in the fields that are named. */
export function fill(values) {
  for (const [key, value] of Object.entries(values)) {
    if (key === "mode") FORM.querySelectorAll('[name="mode"]').forEach((radio) => (radio.checked = radio.value === value));
    const input = field(key) ?? (["model", "amount", "unit", "train_tokens"].includes(key) ? document.getElementById(key) : null);
    if (!input) continue;
    if (input.tagName === "SELECT" && value && ![...input.options].some((option) => option.value === value)) continue;
    input.value = value;
  }
  for (const part of FORM.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(mode());
  fit();
  showOwn();
}

/** What a trace says is not asked beside it. */
export function showOwn() {
  const serves = mode() === "serve";
  document.getElementById("lengths").hidden = Boolean(own.trace) && serves;
  for (const id of ["amount", "unit"]) document.getElementById(id).disabled = Boolean(own.trace?.arrivals) && serves;
  document.getElementById("model").required = mode() !== "local";
}

const USUAL = { local: { model: "", input_len: "1024", output_len: "256" }, tune: { n_gpus: "1", method: "lora", zero_stage: "0", checkpointing: "none" }, train: { n_gpus: "8", method: "full", zero_stage: "3", checkpointing: "full" } };

/** Choose a mode, with what is usual there. */
export function begin(chosen) {
  const model = document.getElementById("model");
  if (chosen === "local") fill({ model: "" });
  else if (!model.value) fill({ model: initial.model });
  fill({ mode: chosen, ...USUAL[chosen] });
  field("method").disabled = mode() === "train";
}

/** Fields of the sentence are as wide as what they say. */
export function fit() {
  for (const input of FORM.querySelectorAll(".sentence input")) {
    const room = input.type === "number" ? 3 : 2;
    input.style.width = `${Math.max((input.value || input.placeholder).length, 2) + room}ch`;
  }
}

/** The address that asks the same; what stands in the form by itself is left out. */
export function address() {
  const query = new URLSearchParams();
  const usual = { ...initial, ...USUAL[mode()] };
  for (const [key, value] of Object.entries(state())) {
    const part = (field(key) ?? document.getElementById(key))?.closest("[data-for]");
    if (value !== usual[key] && !part?.hidden) query.set(key, value);
  }
  return `${location.pathname}${query.size ? `?${query}` : ""}`;
}

const initial = state();

const POPULAR = [
  [15e9, ["H100", "L40S", "L4"]],
  [120e9, ["H100", "H200", "L40S"]],
  [Infinity, ["H200", "B200", "MI300X"]],
];

/** The few GPUs that are asked about first. parameters: of the model; 0: not known. */
export const popular = (parameters) => POPULAR.find(([most]) => (parameters || 32e9) < most)[1];

/** The load as columns of a request. Users are served for a while before anything counts: their first prompts, which
 * benchmarks send all at once, do not come so from people. */
export function loadOf({ unit, amount }) {
  return unit === "users" ? { concurrency: amount, warmup: 2 * Math.round(Number(amount)) } : { [unit]: amount };
}

/** The query of a plan. */
export function planQuery(said, model, more = {}) {
  const query = { model, gpus: said.gpus || "all" };
  if (!own.trace?.arrivals) Object.assign(query, loadOf(said));
  Object.assign(query, own.trace ? { trace: own.trace.id } : { input_len: said.input_len, output_len: said.output_len });
  for (const key of ["ttft_p99", "max_gpus", "budget", "dtype", "engine"]) if (said[key] && said[key] !== "0") query[key] = said[key];
  if (Number(said.tpot)) query.tpot = Number(said.tpot) / 1000;
  if (Number(said.cached)) query.prefix_cache_hit_rate = Number(said.cached) / 100;
  query.p_slo = Number(said.p_slo) / 100;
  return new URLSearchParams({ ...query, files: "true", ...more });
}

/** The query of a comparison of trainings on so many of each GPU. */
export function trainQuery(said, model, gpus) {
  const full = said.mode === "train";
  const query = { model, phase: "train", method: full ? "full" : said.method, train_tokens: Number(said.train_tokens) * 1e6 };
  for (const key of ["seq_len", "micro_batch", "grad_accum", "checkpointing", "zero_stage"]) query[key] = said[key];
  return new URLSearchParams({ ...query, gpus: gpus.map((gpu) => (/^\d+\s*[x×*]/.test(gpu) ? gpu : `${said.n_gpus}x${gpu}`)).join(",") });
}

/** The query of a `predictor predict` line, for the model by the name that the server knows. */
export function queryOf(line, model) {
  const words = [...line.matchAll(/'([^']*)'|(\S+)/g)].map((match) => match[1] ?? match[2]);
  const query = new URLSearchParams({ model });
  for (let at = 3; at < words.length; at++) {
    if (!words[at].startsWith("--")) continue;
    const name = words[at].slice(2).replaceAll("-", "_");
    if (at + 1 < words.length && !words[at + 1].startsWith("--")) query.append(name, words[++at]);
    else if (name.startsWith("no_")) query.append(name.slice(3), "false");
    else query.append(name, "true");
  }
  if (query.has("trace")) query.set("trace", own.trace?.id ?? "");
  return query;
}

const PRICED = ["predict", "train", "compare", "plan", "sweep", "upgrade", "quality"];
const MOST_AGAIN = 20; // times that a busy server is asked

/** An answer of the API; throws an Error with its sentence. A server that is busy is asked again when it says. */
export async function asked(name, query, signal) {
  if (own.prices && PRICED.includes(name)) (query = new URLSearchParams(query)).set("prices", own.prices.id);
  for (let again = 0; ; again++) {
    const response = await fetched(`api/${name}?${query}`, { signal });
    if (response.status !== 429 || again === MOST_AGAIN) return replied(response);
    const wait_s = Number(response.headers.get("retry-after")) || 5;
    document.dispatchEvent(new CustomEvent("busy", { detail: wait_s }));
    await new Promise((go) => setTimeout(go, 1000 * wait_s * (0.75 + Math.random() / 2))); // not all at once
    signal?.throwIfAborted();
  }
}

async function fetched(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; is `predictor web` still running?");
  }
}

/** A file on its way to the server; returns its id. */
export async function sent(kind, content, name) {
  return replied(await fetched(`api/${kind}?${new URLSearchParams({ name })}`, { method: "POST", body: content }));
}

async function replied(response) {
  const content = await response.json().catch((error) => {
    if (response.ok) throw error; // it was given up while it arrived
    return { error: `The server answered ${response.status}.` };
  });
  if (!response.ok) throw new Error(content.error);
  return content;
}
