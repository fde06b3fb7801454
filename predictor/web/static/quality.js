// Scores that were measured, beside what serving each model costs and how fast it is.

import { pareto } from "./plots.js";
import { loadOf, own } from "./questions.js";
import { intervalBar, sum, tile, words } from "./tiles.js";
import { digits, dollars, duration, durationInterval, element, gigabytes, risk } from "./words.js";

const ENGINE = "vllm"; // which is asked where none is said
const at = (id) => document.getElementById(id);

/** List the result files, each with the model that it is of, which may be said. without: (file) → nothing. */
export function showScores(without) {
  const lines = own.scores.map((one) => {
    const told = one.model ? `${one.model}:${one.dtype}` : "";
    const of = element("input", { placeholder: told || "MODEL:FORMAT", "aria-label": `Model and number format of ${one.name}`, spellcheck: "false", autocomplete: "off", onchange: () => (one.as = of.value.trim()) });
    of.value = one.as;
    const button = element("button", { type: "button", class: "small", "aria-label": `Without ${one.name}`, onclick: () => without(one) }, "Without it");
    return element("li", {}, element("span", {}, `${one.name} is of`), of, button);
  });
  at("scores").replaceChildren(...lines);
}

/** What a file is of, as ID=MODEL:FORMAT; named: name of a model that was dropped → its id. */
function stated(one, called, named = (model) => model) {
  const colon = one.as.lastIndexOf(":"), end = colon < 0 ? one.as.length : colon;
  return `${called}=${named(one.as.slice(0, end))}${one.as.slice(end)}`;
}

export function qualityQuery(said, files) {
  const query = new URLSearchParams({ gpu: said.on, ...loadOf(said), input_len: said.input_len, output_len: said.output_len });
  for (const one of own.scores) {
    query.append("scores", one.id);
    if (one.as) query.append("as", stated(one, one.id, (model) => files.get(model) ?? model));
  }
  return query;
}

function qualityLine(said) {
  const named = own.scores.filter((one) => one.as).map((one) => ` --as ${stated(one, one.name)}`);
  const load = Object.entries(loadOf(said)).map(([name, value]) => ` --${name.replaceAll("_", "-")} ${value}`);
  return `predictor quality ${own.scores.map((one) => one.name).join(" ")}${named.join("")} --gpu ${said.on.replaceAll(" ", "")}${load.join("")} --input-len ${said.input_len} --output-len ${said.output_len}`;
}

const three = (value) => (Math.abs(value) > 1 ? digits(value) : value.toFixed(3));
const score = (value, error) => (value === null ? "–" : three(value) + (error === null ? "" : ` ± ${three(error)}`));
const figure = (row, name, text) => (row[name] === null || row[name] === undefined ? "–" : text(row[name], row[`${name}_low`], row[`${name}_high`]));
const price = (value, low, high) => `${dollars(value)} (${digits(low)}–${digits(high)})`;
const called = (row) => `${row.evaluated}, ${row.dtype}, ${row.gpus}`;

/** What the page shows of an answer: rows that run, and those that do not with the reason. */
export function shownOf(answer) {
  const rows = answer.rows.filter((row) => !row.error).map((row) => ({ ...row, engine: ENGINE, selectable: true, holds: row.fits }));
  const lost = answer.rows.filter((row) => row.error).map((row) => ({ evaluated: row.evaluated, dtype: row.dtype, gpu: row.gpus, why: `${row.gpus}: ${row.error}` }));
  return { rows, lost, axis: answer.quality, rises: answer.higher_is_better, notes: answer.notes, bundle: rows[0]?.bundle };
}

/** Headline, tiles and plots of a row; returns the line that asks it, and notes. */
export function showQuality(row, { rows, said, chosen, axis, rises, notes }, choose) {
  at("headline").textContent = `${called(row)}: ${axis ? `quality ${score(row.quality, row.quality_stderr)}` : "no quality"} at ${row.usd_per_mtok === null ? "no listed price" : `${dollars(row.usd_per_mtok)} per million tokens`}${row.fits ? "" : "; it has no room in memory"}`;
  at("why").textContent = axis ? `Quality is ${axis}, as your files have it.${row.front ? " Nothing is better, cheaper and faster between tokens." : ""}` : "The files have no score in common that makes a quality.";
  const bar = (name, text) => intervalBar([row[name], row[`${name}_low`], row[`${name}_high`]], null, text);
  const time = (title, name) => tile(title, duration(row[name]), `${duration(row[`${name}_low`], row[name])} to ${duration(row[`${name}_high`], row[name])}`, bar(name, figure(row, name, durationInterval)), async () => words("In the mean over the requests of the load."));
  at("tiles").replaceChildren(
    tile("Quality", score(row.quality, row.quality_stderr), axis ?? "no score in common", "", async () => [sum([...row.scores.map(scoreLine), ["quality", score(row.quality, row.quality_stderr)]]), ...words("± is the standard error. Audits of bias are no part of a quality.")]),
    tile("A million tokens", dollars(row.usd_per_mtok), figure(row, "usd_per_mtok", price), row.usd_per_mtok === null ? "" : bar("usd_per_mtok", figure(row, "usd_per_mtok", price)), async () => words(row.price_source ?? "No price of this GPU is listed.")),
    ...["ttft_s", "tpot_s"].filter((name) => row[name] !== null).map((name) => time(name === "ttft_s" ? "First token" : "Each token", name)),
  );
  const plot = (title, caption, name, told, x) => {
    const points = rows.map((one) => ({ x: one[name], low: one[`${name}_low`], high: one[`${name}_high`], y: one.quality, error: one.quality_stderr ?? 0, holds: one.fits, text: `${called(one)}: ${score(one.quality, one.quality_stderr)}, ${figure(one, name, told)}` }));
    return pareto(title, caption, points, chosen, choose, x, "quality", null, { rises, format: three });
  };
  const plots = () => [
    plot("Quality against price", "Nothing is both better and cheaper than those on the line. Upright: the standard error; the axis does not begin at 0.", "usd_per_mtok", price, { text: "USD per million tokens", format: dollars }),
    plot("Quality against each token", "Nothing is both better and faster between tokens than those on the line.", "tpot_s", durationInterval, { text: "TPOT", format: duration }),
  ];
  at("plots").replaceChildren(...(axis ? plots() : []));
  return { line: qualityLine(said), notes: [row.price_source && `Price: ${row.price_source}.`, ...(row.notes?.split(" | ") ?? []), ...notes] };
}

function scoreLine(one) {
  const shots = one.n_shot === null ? "" : `, ${one.n_shot}-shot`;
  const audit = one.audit ? ` (audit of bias${one.neutral === null ? "" : `; ${one.neutral} is neutral`})` : "";
  return [`${one.task} ${one.metric}${one.filter ? ` (${one.filter})` : ""}${shots}${audit}`, score(one.value, one.stderr)];
}

export const qualityColumns = (named) => [
  { name: "Model", value: (row) => row.evaluated, cell: named },
  { name: "Format", value: (row) => row.dtype },
  { name: "GPU", value: (row) => row.gpus },
  { name: "Quality", value: (row) => row.quality, cell: (row) => score(row.quality, row.quality_stderr), right: true },
  { name: "$/Mtok", value: (row) => row.usd_per_mtok, cell: (row) => figure(row, "usd_per_mtok", price), right: true },
  { name: "TTFT", value: (row) => row.ttft_s, cell: (row) => figure(row, "ttft_s", durationInterval), right: true },
  { name: "TPOT", value: (row) => row.tpot_s, cell: (row) => figure(row, "tpot_s", durationInterval), right: true },
  { name: "GB of each", value: (row) => row.memory_bytes, cell: (row) => gigabytes(row.memory_bytes), right: true },
  { name: "P(OOM)", value: (row) => row.p_oom, cell: (row) => risk(row.p_oom), right: true },
  { name: "Front", value: (row) => Number(row.front), cell: (row) => (row.front ? "yes" : "") },
  { name: "Why not", value: (row) => row.why ?? (row.fits ? null : "no room in memory"), cell: (row) => row.why ?? (row.fits ? "" : "no room in memory") },
];
