// The page: asks about a few GPUs first, then about all, and shows what it knows so far.

import { CAPTIONS, planColumns, trainColumns } from "./columns.js";
import { showCopies } from "./copies.js";
import { pricesText, taken, traceText } from "./files.js";
import { detailQuery, largest, localColumns, localHeadline, localLine, localQuery, localTiles, mixText, upgradeColumns, upgradeHeadline, upgradeLine, upgradeQuery, upgradeTiles } from "./fleets.js";
import { badge } from "./known.js";
import { againstUsers, pareto } from "./plots.js";
import { qualityColumns, qualityQuery, showQuality, showScores, shownOf } from "./quality.js";
import { PRESETS, address, asked, begin, fill, fit, mode, own, planQuery, popular, queryOf, showOwn, state, trainQuery } from "./questions.js";
import { download, fillTable } from "./table.js";
import { planTiles, trainTiles } from "./tiles.js";
import { digits, dollars, duration, durationInterval, element, hours, layout, limit, percent, risk, settings, whole as count } from "./words.js";

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
    await ({ serve: askPlans, upgrade: askFleets, quality: askQuality, local: askLocal }[said.mode] ?? askTrainings)(said, files.get(said.model) ?? said.model, signal, began);
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

async function askFleets(said, model, signal, began) {
  tell(`Trying layouts of ${said.have} and ${said.consider} …`);
  const rows = await asked("upgrade", upgradeQuery(said, model), signal);
  showRows({ kind: "upgrade", said, model, rows: rows.map((row) => ({ ...row, selectable: true, holds: !row.why })), chosen: 0 });
  tell(`Answered in ${seconds(began)}.`);
}

async function askLocal(said, model, signal, began) {
  tell(`Asking what runs on ${said.home} …`);
  const rows = await asked("local", localQuery(said, model), signal);
  const answered = rows.filter((row) => !row.error).map((row) => ({ ...row, selectable: true, holds: row.fits }));
  const lost = rows.filter((row) => row.error).map((row) => ({ model: row.model, why: row.error }));
  if (!answered.length) throw new Error(lost[0].why);
  showRows({ kind: "local", said, model, rows: answered, lost, bundle: answered[0].bundle, chosen: largest(answered) });
  tell(`Answered in ${seconds(began)}.`);
}

async function askQuality(said, model, signal, began) {
  at("answer").hidden = at("all").hidden = true;
  if (!own.scores.length) return tell("Drop result files of lm-evaluation-harness to see them beside price and latency.");
  tell(`Asking about ${own.scores.length} result file${own.scores.length > 1 ? "s" : ""} on ${said.on} …`);
  const found = shownOf(await asked("quality", qualityQuery(said, files), signal));
  if (!found.rows.length) throw new Error(found.lost[0].why);
  showRows({ kind: "quality", said, model, ...found, chosen: 0 });
  tell(`Answered in ${seconds(began)}.`);
}

function showRows(found) {
  current = { lost: [], promised: {}, notes: [], picked: false, details: new Map(), ...found };
  show();
}

function tell(text) {
  at("status").textContent = text;
}

function wrong(text, input = null) {
  at("error").textContent = text;
  FORM.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
  const named = input ?? (!text ? null : (FORM.querySelector(`[data-key="${CSS.escape(text.split(" ")[0])}"]`) ?? (/^unknown model|^model/.test(text) ? at("model") : /GPU called|^gpu/.test(text) ? FORM.querySelector('[data-key="gpus"]') : null)));
  named?.setAttribute("aria-invalid", "true");
}

// ---- plans

function showPlans(said, model, answer) {
  const before = current?.rows?.[current.chosen];
  const rows = answer.plans.map((row) => ({ ...row, selectable: true }));
  const names = new Set(rows.map((row) => row.gpu));
  const lost = [...new Map(answer.lost.filter((one) => !names.has(one.gpu)).map((one) => [one.gpu, one])).values()]; // the last reason of each
  const same = (row) => before && ["gpu", "n_gpus", "dtype", "engine", "tp", "replicas", "max_num_batched_tokens"].every((key) => row[key] === before[key]);
  const place = current?.picked ? rows.findIndex(same) : -1;
  current = { kind: "plan", said, model, rows, lost, promised: answer.promised, nearest: answer.nearest, apart: answer.disaggregated ?? [], notes: answer.notes, bundle: answer.bundle, chosen: Math.max(place, 0), picked: place >= 0, details: new Map() };
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
  ({ plan: showPlan, train: showTraining, upgrade: showUpgrade, quality: showScored, local: showLocal })[current.kind](current.rows[current.chosen]);
  showTable();
  at("bundle").textContent = current.bundle ? ` · Bundle ${current.bundle}` : "";
}

function showPlan(plan) {
  const { promised } = current;
  if (!plan) {
    at("headline").textContent = "No GPU can.";
    at("badge").hidden = true;
    at("why").textContent = current.lost[0]?.why ?? "";
    for (const id of ["known", "validated", "tiles", "plots", "copies", "notes"]) at(id).replaceChildren();
    return;
  }
  at("badge").hidden = false;
  at("headline").textContent = `${plan.holds ? "" : "Nothing keeps this surely. "}${layout(plan)}: ${costOf(plan)}; ${promiseOf(plan, promised)}`;
  at("why").textContent = `${settings(plan)}: ${plan.why}${current.nearest ? ` Nothing holds; ${current.nearest}` : ""}`;
  badge(plan, "serve", () => current.rows[current.chosen] === plan);
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

const costOf = (plan) => (plan.usd_per_hour === null ? "no price is listed" : `${dollars(plan.usd_per_hour)} per hour (${priceOf(plan)})`);
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
        fill({ unit: current.said.unit, amount: Number(row[key].toPrecision(3)) });
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
  if (query.has("trace")) throw new Error("Latency against users is not drawn of a trace, which says itself when requests come.");
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
  const place = current?.picked ? rows.findIndex((row) => row.gpu === before?.gpu) : -1;
  current = { kind: "train", said, model, rows, lost, promised: {}, notes: [], bundle: rows[0]?.bundle, chosen: Math.max(place, 0), picked: place >= 0, details: new Map() };
  show();
}

function showTraining(row) {
  const { said, model, details } = current;
  at("badge").hidden = false;
  const cost = row.train_usd === null ? "no price is listed" : dollars(row.train_usd);
  at("headline").textContent = `${row.n_gpus} × ${row.gpu}: ${hours(row.train_hours)} (${hours(row.train_hours_low, row.train_hours)} to ${hours(row.train_hours_high, row.train_hours)}), ${cost}; ${row.fits ? "fits" : "does not fit"}, P(out of memory) ${risk(row.p_oom)}`;
  at("why").textContent = row.p_beats_next === null || row.p_beats_next === undefined ? "" : `Cheaper per token than the next with ${percent(row.p_beats_next)}.`;
  badge(row, "train", () => current.rows[current.chosen] === row);
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

// ---- upgrades, and what runs at home

function showUpgrade(row) {
  const { said } = current;
  at("badge").hidden = true;
  for (const id of ["known", "validated", "plots"]) at(id).replaceChildren();
  at("headline").textContent = upgradeHeadline(row, said);
  at("why").textContent = "One kind of work, in the layout in which each fleet is fastest; a mix of several is asked on the command line.";
  at("tiles").replaceChildren(...upgradeTiles(row, said));
  showCopies([["Ask on the command line", upgradeLine(said)]], { "mix.toml": mixText(said) });
  showNotes([row.price_source && `Price: ${row.price_source}.`]);
}

function showScored(row) {
  at("badge").hidden = false;
  badge(row, "serve", () => current.rows[current.chosen] === row);
  const { line, notes } = showQuality(row, current, choose);
  showCopies([["Ask on the command line", line]]);
  showNotes(notes);
}

function showLocal(row) {
  const { said, rows, details } = current;
  at("badge").hidden = false;
  at("headline").textContent = localHeadline(row, rows);
  at("why").textContent = "Of each model the widest format with room; a narrower one answers faster and less well.";
  badge(row, "serve", () => current.rows[current.chosen] === row);
  at("plots").replaceChildren();
  const full = () => {
    if (!details.has(row.model)) details.set(row.model, asked("predict", detailQuery(row, files.get(row.model) ?? row.model), asking.signal).then(([first]) => first));
    return details.get(row.model);
  };
  at("tiles").replaceChildren(...localTiles(row, full));
  showCopies([["Ask on the command line", localLine(said)]]);
  showNotes(typeof row.notes === "string" ? row.notes.split(" | ") : (row.notes ?? []));
}

// ---- notes

function showNotes(notes) {
  at("notes").replaceChildren(...[...new Set(notes.filter(Boolean))].map((note) => element("li", {}, note)));
}

// ---- the table

const COLUMNS = { plan: planColumns(named, reason), train: trainColumns(named, reason), upgrade: upgradeColumns(named, reason), quality: qualityColumns(named), local: localColumns(named) };
/** The name of a GPU, or of a model at home, which shows its answer where it has one. */
function named(row) {
  const name = { local: row.model, quality: row.evaluated }[current.kind] ?? row.gpu;
  if (!row.selectable) return name;
  const place = current.rows.indexOf(row);
  return element("button", { type: "button", class: "link", "aria-pressed": String(place === current.chosen), onclick: () => choose(place) }, name);
}

/** Why a GPU lost, with what would help where memory is short. */
function reason(row) {
  if (!/does not (start|fit)|no room|needs .* GB/.test(row.why ?? "")) return element("span", {}, row.why ?? "");
  return element("span", {}, row.why, " ", element("button", { type: "button", class: "small", onclick: () => help(row), "aria-label": `What would help on ${row.gpu}?` }, "What would help?"));
}

async function help(row) {
  const { said, model } = current, train = current.kind === "train";
  const query = train ? trainQuery(said, model, []) : planQuery(said, model);
  for (const key of ["gpus", "phase", "train_tokens", "ttft_p99", "tpot", "p_slo", "max_gpus", "budget", "request_rate", "concurrency", "prefix_cache_hit_rate", "warmup", "trace", "files"]) query.delete(key);
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
  return text ? rows.filter((row) => `${row.evaluated ?? row.model ?? ""} ${row.gpu} ${row.why ?? ""} ${row.engine ?? ""} ${row.dtype ?? ""}`.toLowerCase().includes(text)) : rows;
}

function showTable() {
  const columns = COLUMNS[current.kind];
  if (sort.column >= columns.length || sort.kind !== current.kind) sort = { column: -1, falling: false, kind: current.kind };
  const rows = everyRow();
  const holds = current.rows.filter((row) => row.holds).length;
  const caption = CAPTIONS[current.kind](current.rows.length, holds, current.lost.length, current.said.have);
  at("all-title").textContent = { upgrade: "All that are considered", quality: "All that were evaluated", local: "All models" }[current.kind] ?? "All GPUs";
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

async function take([file, ...more], kind = null) {
  wrong("");
  tell(`Reading ${file.name} …`);
  try {
    const answer = await taken(file, kind);
    if (answer.kind === "model") {
      files.set(answer.name, answer.id);
      catalogue.models.push({ name: answer.name, parameters: answer.parameters });
      fill({ model: answer.name });
    } else {
      const suits = { trace: "serve", scores: "quality" }[answer.kind];
      if (suits && mode() !== suits) begin(suits);
      showFiles();
    }
    if (more.length && answer.kind === "scores") return await take(more, kind);
    await ask();
  } catch (error) {
    tell("");
    wrong(error.message, kind ? null : at("model"));
  }
}

/** What is said of files of one's own, each with a button to do without it. */
function showFiles() {
  for (const [kind, text] of [["trace", traceText], ["prices", pricesText]]) {
    const [said, without] = at(kind).children;
    said.textContent = own[kind] ? text(own[kind]) : "";
    without.hidden = !own[kind];
  }
  showScores((one) => {
    own.scores = own.scores.filter((other) => other !== one);
    showFiles();
    at("pick-scores").focus();
    ask();
  });
  showOwn();
}

// ---- what starts it all

FORM.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
FORM.addEventListener("input", fit);
FORM.addEventListener("change", (event) => {
  if (event.target.name === "mode") {
    begin(mode());
  }
  if (event.target.type !== "file") ask();
});
for (const button of FORM.querySelectorAll("[data-preset]"))
  button.addEventListener("click", () => {
    fill(PRESETS[button.dataset.preset]);
    ask();
  });
for (const [button, input, kind] of [["pick", "file", "model"], ["pick-trace", "trace-file", "trace"], ["pick-prices", "prices-file", "prices"], ["pick-scores", "scores-file", "scores"]]) {
  at(button).addEventListener("click", () => at(input).click());
  at(input).addEventListener("change", () => {
    if (at(input).files.length) take([...at(input).files], kind);
    at(input).value = "";
  });
}
for (const kind of ["trace", "prices"])
  at(kind).lastElementChild.addEventListener("click", () => {
    own[kind] = null;
    showFiles();
    ask();
  });
document.addEventListener("busy", (event) => tell(`The server is busy; it is asked again in about ${event.detail} s …`));
for (const name of ["dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
at("filter").addEventListener("input", showTable);
at("csv").addEventListener("click", () => download(everyRow().map(({ selectable, files: _, ...row }) => row), "plans.csv"));

function suggest(id, names) {
  at(id).replaceChildren(...names.map((name) => element("option", { value: name })));
}

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
