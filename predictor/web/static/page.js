// The page: asks about a few GPUs first, then about all, and shows what it knows so far.

import { header } from "./gguf.js";
import { againstUsers, pareto } from "./plots.js";
import { PRESETS, address, asked, begin, fill, fit, mode, planQuery, popular, queryOf, sent, state, trainQuery } from "./questions.js";
import { download, fillTable } from "./table.js";
import { planTiles, trainTiles } from "./tiles.js";
import { BASES, digits, dollars, duration, durationInterval, element, hours, layout, limit, percent, risk, settings, whole as count } from "./words.js";

const at = (id) => document.getElementById(id);
const FORM = at("ask");
const DATA_CENTRE = ["H100-SXM", "H200", "A100-SXM-80GB", "B200-SXM-180GB"]; // of trainings, first
const SHARES = [0.125, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2]; // of the load, in the plot

const catalogue = { models: [], gpus: [] };
const files = new Map(); // name in the form → id of the server
let asking = new AbortController();
let current = null; // what is shown: { said, model, rows, lost, promised, chosen, … }
let sort = { column: -1, falling: false }; // -1: best first, as answered

// ---- asking

async function ask() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking, said = state();
  wrong("");
  const missing = FORM.querySelector("[required]:invalid");
  if (missing && !missing.closest("[hidden]")) {
    missing.focus();
    return wrong(`${missing.labels[0]?.textContent ?? "A field"} is missing.`, missing);
  }
  history.replaceState(null, "", address());
  at("busy").hidden = false;
  const began = performance.now();
  try {
    await (said.mode === "serve" ? askPlans : askTrainings)(said, files.get(said.model) ?? said.model, signal, began);
  } catch (error) {
    if (error.name === "AbortError") return;
    tell("");
    wrong(error.message);
  }
  if (signal === asking.signal) at("busy").hidden = true;
}

const seconds = (began) => `${((performance.now() - began) / 1000).toFixed(1)} s`;

async function askPlans(said, model, signal, began) {
  const few = fewOf(said), last = said.gpus ? "now all of them, other engines and settings are tried" : "now all GPUs are searched";
  tell(`Asking about ${few[0]} …`);
  let failed = null;
  for (const some of few.length > 1 ? [few.slice(0, 1), few] : [few]) {
    const next = some === few || few.length === 1 ? last : `now ${few.slice(1).join(", ")}`;
    try {
      showPlans(said, model, await asked("plan", planQuery(said, model, { gpus: some.join(","), vary: "false", top: "3" }), signal));
      tell(`${some.join(", ")} answered in ${seconds(began)}; ${next} …`);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      failed = error; // perhaps another GPU can
      tell(`${some.join(", ")} cannot; ${next} …`);
    }
  }
  const whole = await asked("plan", planQuery(said, model, { top: "30" }), signal).catch((error) => {
    throw error.name === "AbortError" ? error : (failed ?? error);
  });
  showPlans(said, model, whole);
  tell(`${count(whole.screened)} replicas on ${said.gpus || "all GPUs"} screened, ${count(whole.simulated)} simulated.`);
}

/** The GPUs that are asked about first: of those that are named, else of those that suit the model's size. */
function fewOf(said) {
  const named = said.gpus.includes("=") ? [said.gpus] : said.gpus.split(",").map((one) => one.trim()).filter((one) => /\d/.test(one));
  return named.length ? named.slice(0, 3) : popular(catalogue.models.find((one) => one.name === said.model)?.parameters);
}

async function askTrainings(said, model, signal, began) {
  const own = said.train_gpus.split(",").map((one) => one.trim()).filter(Boolean);
  tell("Asking …");
  const rows = await asked("compare", trainQuery(said, model, own.length ? own : DATA_CENTRE), signal);
  showTrainings(said, model, rows);
  if (own.length) return tell(`Answered in ${seconds(began)}.`);
  tell(`${DATA_CENTRE.join(", ")} answered in ${seconds(began)}; now all data-centre GPUs are asked about …`);
  const names = catalogue.gpus.filter((gpu) => gpu.segment === "data-centre").map((gpu) => gpu.name);
  showTrainings(said, model, await asked("compare", trainQuery(said, model, names), signal));
  tell(`${names.length} kinds of GPU answered in ${seconds(began)}.`);
}

function tell(text) {
  at("status").textContent = text;
}

function wrong(text, input = null) {
  at("error").textContent = text;
  FORM.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
  const named = input ?? (!text ? null : (FORM.querySelector(`[data-key="${text.split(" ")[0]}"]`) ?? (/^unknown model|^model/.test(text) ? at("model") : /GPU called|^gpu/.test(text) ? FORM.querySelector('[data-key="gpus"]') : null)));
  named?.setAttribute("aria-invalid", "true");
}

// ---- plans

function showPlans(said, model, answer) {
  const before = current?.rows?.[current.chosen];
  const rows = answer.plans.map((row) => ({ ...row, selectable: true }));
  const names = new Set(rows.map((row) => row.gpu));
  const lost = [...new Map(answer.lost.filter((one) => !names.has(one.gpu)).map((one) => [one.gpu, one])).values()]; // the last reason of each
  const same = (row) => before && ["gpu", "n_gpus", "dtype", "engine", "tp", "replicas", "max_num_batched_tokens"].every((key) => row[key] === before[key]);
  const kept = current?.picked ? rows.findIndex(same) : -1;
  current = { kind: "plan", said, model, rows, lost, promised: answer.promised, nearest: answer.nearest, apart: answer.disaggregated ?? [], notes: answer.notes, bundle: answer.bundle, chosen: Math.max(kept, 0), picked: kept >= 0, details: new Map() };
  show();
}

function choose(place) {
  current.chosen = place;
  current.picked = true;
  show();
  at("headline").scrollIntoView({ block: "nearest" });
}

function show() {
  at("answer").hidden = at("all").hidden = false;
  (current.kind === "plan" ? showPlan : showTraining)(current.rows[current.chosen]);
  showTable();
  at("bundle").textContent = ` · Bundle ${current.bundle ?? ""}`;
}

function showPlan(plan) {
  const { promised } = current;
  if (!plan) {
    at("headline").textContent = "No GPU can.";
    at("badge").hidden = true;
    at("why").textContent = current.lost[0]?.why ?? "";
    for (const id of ["known", "tiles", "plots", "copies", "notes"]) at(id).replaceChildren();
    return;
  }
  at("badge").hidden = false;
  at("headline").textContent = `${plan.holds ? "" : "Nothing keeps this surely. "}${layout(plan)}: ${priceOf(plan)}; ${promiseOf(plan, promised)}`;
  at("why").textContent = `${settings(plan)}: ${plan.why}${current.nearest ? ` Nothing holds; ${current.nearest}` : ""}`;
  badge(plan);
  const details = detailed(plan.predict);
  at("tiles").replaceChildren(...planTiles(plan, promised, details));
  showPlots(plan);
  showCopies([
    ["Start each replica", plan.command],
    ["Ask on the command line", plan.predict],
  ], plan.files);
  showNotes([plan.price_source && `Price: ${plan.price_source}.`, ...current.apart.map(apart), ...plan.notes, ...current.notes]);
}

/** Prefill and decode on GPUs of their own. */
const apart = (row) =>
  `Disaggregated: ${row.prefill_workers} prefill and ${row.decode_workers} decode workers of ${row.gpu}, ${row.n_gpus} GPUs: ${priceOf(row)}, TTFT p99 ${durationInterval(row.ttft_p99_s, row.ttft_p99_s_low, row.ttft_p99_s_high)}, TPOT ${durationInterval(row.tpot_s, row.tpot_s_low, row.tpot_s_high)}; kept with ${percent(row.p_slo)}.`;

const priceOf = (plan) => (plan.usd_per_mtok === null ? "no price is listed" : `${dollars(plan.usd_per_mtok)} per million tokens`);

function promiseOf(plan, promised) {
  const names = { ttft_p99_s: "TTFT", tpot_s: "TPOT", e2e_s: "E2E" };
  const told = Object.entries(promised).map(([name, most]) => `${names[name]} < ${limit(most)}`);
  return `${plan.holds ? "holds" : "holds only"} ${told.join(" and ") || "the load"} with ${percent(plan.p_slo)}`;
}

/** The row of `predict --explain` of a line, asked once. */
function detailed(line) {
  return () => {
    const { details, model } = current;
    if (!details.has(line)) {
      const query = queryOf(line, model);
      query.set("explain", "true");
      details.set(line, asked("predict", query, asking.signal).then((rows) => rows[0]));
    }
    return details.get(line);
  };
}

const ledgers = new Map();
const ledger = (gpu) => {
  if (!ledgers.has(gpu)) ledgers.set(gpu, asked("ledger", new URLSearchParams(gpu ? { gpu } : {})).catch(() => (ledgers.delete(gpu), [])));
  return ledgers.get(gpu);
};

/** What is known of the errors of such an answer, of operators that were held out. */
async function badge(row) {
  const seen = row.basis === "seen-gpu";
  at("badge").textContent = BASES[row.basis] ?? row.basis;
  at("badge").dataset.basis = row.basis;
  const near = row.basis === "unseen-gpu" && row.nearest_gpu && row.nearest_gpu !== row.gpu ? `The nearest that was measured is ${row.nearest_gpu}. ` : "";
  at("known").textContent = near;
  const cells = await ledger(seen ? row.gpu : "");
  const told = (held, text) => {
    const found = cells.find((cell) => cell.held_out === held);
    return found && `${text} err by ${percent(found.median_ape)} in the median (${count(found.rows)} measured)`;
  };
  const parts = seen ? [told("rows-out", "Operators of this GPU that were left out")] : [told("gpu-out", "Operators of GPUs left out"), told("generation-out", "of whole generations left out")];
  if (current.rows[current.chosen] === row && parts.some(Boolean)) at("known").textContent = `${near}${parts.filter(Boolean).join(", ")}.`;
}

function showPlots(plan) {
  const { rows, promised, chosen } = current;
  const points = rows.map((row) => ({
    x: row.ttft_p99_s,
    low: row.ttft_p99_s_low,
    high: row.ttft_p99_s_high,
    y: row.usd_per_mtok,
    holds: row.holds,
    text: `${layout(row)}, ${settings(row)}: ${priceOf(row)}, TTFT p99 ${duration(row.ttft_p99_s)}, ${promiseOf(row, promised)}`,
  }));
  const front = pareto("Price against first token", "Nothing is both cheaper and faster than those on the line; a point shows its plan.", points, chosen, choose, { text: "TTFT p99", format: duration }, "USD per million tokens", promised.ttft_p99_s ?? null);
  const later = element("div", { class: "later" }, element("p", {}, "Latency against users is being asked …"));
  at("plots").replaceChildren(front, later);
  loads(plan).then(
    ({ answers, place }) => {
      const set = (one) => {
        const row = answers[one], key = row.concurrency ? "concurrency" : "request_rate";
        fill({ unit: key, amount: Number(row[key].toPrecision(3)) });
        ask();
      };
      later.replaceChildren(
        againstUsers("First token against users", "ttft_p99_s", answers, place, promised.ttft_p99_s, set),
        againstUsers("Each token against users", "tpot_s", answers, place, promised.tpot_s, set),
      );
    },
    (error) => error.name === "AbortError" || later.replaceChildren(element("p", {}, error.message)),
  );
}

/** Answers to shares of the load on the same GPUs. */
async function loads(plan) {
  const { model, details } = current, line = `loads of ${plan.predict}`;
  const query = queryOf(plan.predict, model);
  const name = query.has("concurrency") ? "concurrency" : "request_rate";
  const whole = Number(query.get(name));
  const values = [...new Set(SHARES.map((share) => (name === "concurrency" ? Math.max(Math.round(whole * share), 1) : whole * share)))];
  query.delete(name);
  for (const value of values) query.append(name, value);
  if (!details.has(line)) details.set(line, asked("sweep", query, asking.signal));
  const answers = (await details.get(line)).filter((row) => !row.error);
  return { answers, place: answers.findIndex((row) => row[name] === whole) };
}

// ---- trainings

function showTrainings(said, model, answer) {
  const before = current?.rows?.[current.chosen];
  const rows = answer.filter((row) => !row.error).map((row) => ({ ...row, selectable: true, holds: row.fits }));
  rows.sort((one, two) => two.fits - one.fits || (one.train_usd ?? Infinity) - (two.train_usd ?? Infinity) || one.train_hours - two.train_hours);
  const lost = answer.filter((row) => row.error).map((row) => ({ gpu: row.gpu, n_gpus: 0, why: row.error }));
  const kept = current?.picked ? rows.findIndex((row) => row.gpu === before?.gpu) : -1;
  current = { kind: "train", said, model, rows, lost, promised: {}, notes: [], bundle: rows[0]?.bundle, chosen: Math.max(kept, 0), picked: kept >= 0, details: new Map() };
  show();
}

function showTraining(row) {
  const { said, model, details } = current;
  at("badge").hidden = false;
  const cost = row.train_usd === null ? "no price is listed" : dollars(row.train_usd);
  at("headline").textContent = `${row.n_gpus} × ${row.gpu}: ${hours(row.train_hours)} (${hours(row.train_hours_low, row.train_hours)} to ${hours(row.train_hours_high, row.train_hours)}), ${cost}; ${row.fits ? "fits" : "does not fit"}, P(out of memory) ${risk(row.p_oom)}`;
  at("why").textContent = row.p_beats_next === null || row.p_beats_next === undefined ? "" : `Cheaper per token than the next with ${percent(row.p_beats_next)}.`;
  badge(row);
  const query = trainQuery(said, model, []);
  query.delete("gpus");
  query.delete("phase");
  query.set("gpu", row.gpu);
  query.set("n_gpus", row.n_gpus);
  const line = `predictor predict ${said.model} --gpu ${row.gpu} --phase train ${[...query].filter(([key]) => !["model", "gpu"].includes(key)).map(([key, value]) => `--${key.replaceAll("_", "-")} ${value}`).join(" ")}`;
  query.set("explain", "true");
  at("tiles").replaceChildren(
    ...trainTiles(row, () => {
      if (!details.has(line)) details.set(line, asked("train", query, asking.signal).then((rows) => rows[0]));
      return details.get(line);
    }),
  );
  const points = current.rows.map((one) => ({ x: one.train_hours, low: one.train_hours_low, high: one.train_hours_high, y: one.train_usd, holds: one.fits, text: `${one.n_gpus} × ${one.gpu}: ${digits(one.train_hours)} hours, ${dollars(one.train_usd)}` }));
  at("plots").replaceChildren(pareto("Cost against hours", "Nothing is both cheaper and faster than those on the line; a point shows its training.", points, current.chosen, choose, { text: "hours", format: digits }, "USD"));
  showCopies([["Ask on the command line", line]]);
  showNotes([row.price_source && `Price: ${row.price_source}.`, ...(typeof row.notes === "string" ? row.notes.split(" | ") : (row.notes ?? []))]);
}

// ---- to take along

function showCopies(lines, texts = {}) {
  const rows = lines.map(([name, text]) => element("div", { class: "copy" }, element("span", {}, name), element("code", { tabindex: 0 }, text), copyButton(name, () => text)));
  const link = element("div", { class: "copy" }, element("span", {}, "This question"), element("code", { tabindex: 0 }, location.href), copyButton("This question", () => location.href));
  const folded = Object.entries(texts).map(([name, text]) =>
    element("details", {}, element("summary", {}, name), element("div", { class: "file" }, element("pre", { tabindex: 0, role: "region", "aria-label": name }, text), copyButton(name, () => text))),
  );
  at("copies").replaceChildren(...rows.filter((row) => row.querySelector("code").textContent), ...folded, link);
}

function copyButton(name, text) {
  const button = element("button", { type: "button", "aria-label": `Copy: ${name}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

function showNotes(notes) {
  at("notes").replaceChildren(...[...new Set(notes.filter(Boolean))].map((note) => element("li", {}, note)));
}

// ---- the table

const PLAN_COLUMNS = [
  { name: "GPU", value: (row) => row.gpu, cell: (row) => named(row) },
  { name: "GPUs", value: (row) => row.n_gpus || null, right: true },
  { name: "Layout", value: (row) => (row.selectable ? `${row.replicas} × tp ${row.tp}${row.pp > 1 ? ` pp ${row.pp}` : ""}, ${settings(row)}` : null) },
  { name: "$/Mtok", value: (row) => row.usd_per_mtok, cell: (row) => figure(row.usd_per_mtok, dollars), right: true },
  { name: "$/h", value: (row) => row.usd_per_hour, cell: (row) => figure(row.usd_per_hour, dollars), right: true },
  { name: "Holds", value: (row) => row.p_slo, cell: (row) => (row.selectable ? `${percent(row.p_slo)}${row.holds ? "" : " (no)"}` : "–"), right: true },
  { name: "TTFT p99", value: (row) => row.ttft_p99_s, cell: (row) => interval(row, "ttft_p99_s"), right: true },
  { name: "TPOT", value: (row) => row.tpot_s, cell: (row) => interval(row, "tpot_s"), right: true },
  { name: "Users each", value: (row) => row.users_per_replica, cell: (row) => figure(row.users_per_replica, digits), right: true },
  { name: "P(OOM)", value: (row) => row.p_oom, cell: (row) => figure(row.p_oom, risk), right: true },
  { name: "Basis", value: (row) => BASES[row.basis] },
  { name: "Why", value: (row) => row.why, cell: (row) => reason(row) },
];
const TRAIN_COLUMNS = [
  { name: "GPU", value: (row) => row.gpu, cell: (row) => named(row) },
  { name: "GPUs", value: (row) => row.n_gpus || null, right: true },
  { name: "Hours", value: (row) => row.train_hours, cell: (row) => (row.selectable ? `${digits(row.train_hours)} (${digits(row.train_hours_low)}–${digits(row.train_hours_high)})` : "–"), right: true },
  { name: "USD", value: (row) => row.train_usd, cell: (row) => figure(row.train_usd, dollars), right: true },
  { name: "kWh", value: (row) => row.train_kwh, cell: (row) => figure(row.train_kwh, digits), right: true },
  { name: "Step", value: (row) => row.step_s, cell: (row) => interval(row, "step_s"), right: true },
  { name: "MFU", value: (row) => row.mfu, cell: (row) => figure(row.mfu, percent), right: true },
  { name: "P(OOM)", value: (row) => row.p_oom, cell: (row) => figure(row.p_oom, risk), right: true },
  { name: "Basis", value: (row) => BASES[row.basis] },
  { name: "Why not", value: (row) => row.why ?? (row.fits === false ? "does not fit" : null), cell: (row) => reason({ ...row, why: row.why ?? (row.fits === false ? "does not fit in memory" : "") }) },
];

const figure = (value, text) => (value === null || value === undefined ? "–" : text(value));
const interval = (row, name) => (row[name] === null || row[name] === undefined ? "–" : durationInterval(row[name], row[`${name}_low`], row[`${name}_high`]));

/** The name of a GPU, which shows its plan where it has one. */
function named(row) {
  if (!row.selectable) return row.gpu;
  const place = current.rows.indexOf(row);
  return element("button", { type: "button", class: "link", "aria-pressed": String(place === current.chosen), onclick: () => choose(place) }, row.gpu);
}

/** Why a GPU lost, with what would help where memory is short. */
function reason(row) {
  if (!/does not (start|fit)|no room|needs .* GB/.test(row.why ?? "")) return element("span", {}, row.why ?? "");
  return element("span", {}, row.why, " ", element("button", { type: "button", class: "small", onclick: () => help(row), "aria-label": `What would help on ${row.gpu}?` }, "What would help?"));
}

async function help(row) {
  const { said, model } = current, train = current.kind === "train";
  const query = train ? trainQuery(said, model, []) : planQuery(said, model);
  for (const key of ["gpus", "phase", "train_tokens", "ttft_p99", "tpot", "p_slo", "max_gpus", "budget", "request_rate", "concurrency", "prefix_cache_hit_rate", "files"]) query.delete(key);
  if (query.has("method")) (query.set("mode", query.get("method")), query.delete("method"));
  else query.set("mode", "inference");
  query.set("gpu", row.gpu);
  if (row.n_gpus && train) query.set("n_gpus", row.n_gpus);
  at("help").textContent = `Asking what would help on ${row.gpu} …`;
  try {
    const [memory] = await asked("memory", query, asking.signal);
    const fixes = memory.fixes.map((fix) => `${fix.change}: ${digits(fix.memory_bytes / 1e9)} GB, ${fix.fits ? "fits" : "still does not fit"}${fix.speed ? `, ${digits(fix.speed)} × as fast per GPU` : ""}`);
    at("help").textContent = `${memory.n_gpus ?? 1} × ${row.gpu} needs ${digits(memory.memory_bytes / 1e9)} of ${digits(memory.capacity_bytes / 1e9)} GB. ${fixes.length ? `What would help: ${fixes.join("; ")}.` : "No single change would make it fit."}`;
  } catch (error) {
    if (error.name !== "AbortError") at("help").textContent = error.message;
  }
  at("help").scrollIntoView({ block: "nearest" });
}

function everyRow() {
  const text = at("filter").value.trim().toLowerCase();
  const rows = [...current.rows, ...current.lost];
  return text ? rows.filter((row) => `${row.gpu} ${row.why ?? ""} ${row.engine ?? ""} ${row.dtype ?? ""}`.toLowerCase().includes(text)) : rows;
}

function showTable() {
  const columns = current.kind === "plan" ? PLAN_COLUMNS : TRAIN_COLUMNS;
  if (sort.column >= columns.length || sort.kind !== current.kind) sort = { column: -1, falling: false, kind: current.kind };
  const rows = everyRow();
  const holds = current.rows.filter((row) => row.holds).length;
  const caption = current.kind === "plan" ? `${current.rows.length} plans, ${holds} of which hold; ${current.lost.length} GPUs have none, and why.` : `${current.rows.length} trainings, ${holds} of which fit; ${current.lost.length} GPUs have none, and why.`;
  fillTable(at("table"), caption, columns, rows, {
    sort,
    chosen: current.rows[current.chosen],
    choose: (row) => choose(current.rows.indexOf(row)),
    resort: (wanted) => {
      sort = { ...wanted, kind: current.kind };
      showTable();
      at("table").querySelectorAll("th button")[wanted.column].focus();
    },
  });
}

// ---- files

async function take(file) {
  wrong("");
  tell(`Reading ${file.name} …`);
  try {
    const gguf = file.name.toLowerCase().endsWith(".gguf");
    if (!gguf && file.size > 2 * 2 ** 20) throw new Error(`${file.name} has ${digits(file.size / 2 ** 20)} MiB; a config.json has at most 2.`);
    const answer = await sent(gguf ? await header(file) : file, file.name === "config.json" ? "dropped-model" : file.name);
    files.set(answer.name, answer.id);
    catalogue.models.push({ name: answer.name, parameters: answer.parameters });
    fill({ model: answer.name });
    await ask();
  } catch (error) {
    tell("");
    wrong(error.message, at("model"));
  }
}

// ---- what starts it all

function themed() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  at("theme").setAttribute("aria-pressed", String(dark));
  return dark;
}

at("theme").addEventListener("click", () => {
  const next = themed() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // it is forgotten with the page
  }
  themed();
});

FORM.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
FORM.addEventListener("input", fit);
FORM.addEventListener("change", (event) => {
  if (event.target.name === "mode") {
    begin(mode());
  }
  if (event.target.id !== "file") ask();
});
for (const button of FORM.querySelectorAll("[data-preset]"))
  button.addEventListener("click", () => {
    fill(PRESETS[button.dataset.preset]);
    ask();
  });
at("pick").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  if (file) take(file);
  at("file").value = "";
});
for (const name of ["dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
at("filter").addEventListener("input", showTable);
at("csv").addEventListener("click", () => download(everyRow().map(({ selectable, files: _, ...row }) => row), "plans.csv"));

function suggest(id, names) {
  at(id).replaceChildren(...names.map((name) => element("option", { value: name })));
}

themed();
const given = Object.fromEntries(new URLSearchParams(location.search));
begin(given.mode ?? "serve");
fill(given);
ask();
const short = new URLSearchParams({ short: "true" });
asked("models", short).then((models) => {
  catalogue.models.push(...models);
  suggest("models", models.map((model) => model.name));
}, () => undefined);
asked("gpus", short).then((gpus) => {
  catalogue.gpus = gpus;
  suggest("gpu-names", gpus.map((gpu) => gpu.name));
}, () => undefined);
