// Two more questions: other GPUs in place of those one has, and what runs on a machine at home.

import { loadOf } from "./questions.js";
import { intervalBar, memoryTile, operators, tile, words } from "./tiles.js";
import { digits, dollars, duration, durationInterval, gigabytes, risk } from "./words.js";

const times = (ratio) => (ratio === null || ratio === undefined ? "–" : `${digits(ratio)} ×`);
const between = (row, name) => (row[name] === null || row[name] === undefined ? "–" : `${times(row[name])} (${digits(row[`${name}_low`])}–${digits(row[`${name}_high`])})`);
const fleet = (row) => `${row.n_gpus} × ${row.gpu}`;

// ---- upgrade

/** The work of the form, as a part of a mix. */
export function workOf(said, model) {
  const load = Object.fromEntries(Object.entries(loadOf(said)).map(([key, value]) => [key, Number(value)]));
  return { model, ...load, input_len: Number(said.input_len), output_len: Number(said.output_len) };
}

export const upgradeQuery = (said, model) => new URLSearchParams({ have: said.have, consider: said.consider, work: JSON.stringify(workOf(said, model)) });

/** A mix.toml with the work of the form. */
export const mixText = (said) => `[[work]]\n${Object.entries(workOf(said, said.model)).map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join("\n")}\n`;

export const upgradeLine = (said) => `predictor upgrade --have ${said.have.replaceAll(" ", "")} --consider ${said.consider.replaceAll(" ", "")} --mix mix.toml`;

export function upgradeHeadline(row, said) {
  if (row.why) return `${fleet(row)} cannot: ${row.why}`;
  const cost = row.cost === null ? "no price is listed" : `${times(row.cost)} the cost per hour, ${times(row.cost_per_token)} per token`;
  return `${fleet(row)} in place of ${said.have}: ${times(row.speed)} as fast (${digits(row.speed_low)}–${digits(row.speed_high)}), ${cost}`;
}

export function upgradeTiles(row, said) {
  const bar = (name) => (row[name] === null ? "" : intervalBar([row[name], row[`${name}_low`], row[`${name}_high`]], 1, between(row, name)));
  const of = said.unit === "request_rate" ? "the requests per second that each holds" : "the tokens per second of each";
  return [
    tile("Speed", times(row.speed), row.speed === null ? row.why : `${digits(row.speed_low)} to ${digits(row.speed_high)} · the mark is ${said.have}`, bar("speed"), async () => words(`Of ${of}, in the layout in which it is fastest. Errors of the two are taken to be independent.`)),
    tile("Cost of a token", times(row.cost_per_token), row.cost_per_token === null ? "no price is listed" : `${digits(row.cost_per_token_low)} to ${digits(row.cost_per_token_high)} · below 1 is cheaper`, bar("cost_per_token"), async () => words("Cost of an hour ÷ speed. With fewer requests than a fleet holds, a larger one costs more for each.")),
    tile("Cost of an hour", times(row.cost), row.usd_per_hour === null ? "no price is listed" : `${dollars(row.usd_per_hour)} per hour`, "", async () => words(row.price_source ?? "No price of this GPU is listed.")),
    tile("Memory of all", times(row.room), "of what there is now", "", async () => words("Memory of all GPUs of a fleet, by their data sheets.")),
  ];
}

export const upgradeColumns = (named, reason) => [
  { name: "In its place", value: (row) => row.gpu, cell: named },
  { name: "GPUs", value: (row) => row.n_gpus, right: true },
  { name: "Speed", value: (row) => row.speed, cell: (row) => between(row, "speed"), right: true },
  { name: "Cost of a token", value: (row) => row.cost_per_token, cell: (row) => between(row, "cost_per_token"), right: true },
  { name: "Cost of an hour", value: (row) => row.cost, cell: (row) => times(row.cost), right: true },
  { name: "$/h", value: (row) => row.usd_per_hour, cell: (row) => (row.usd_per_hour === null ? "–" : dollars(row.usd_per_hour)), right: true },
  { name: "Memory of all", value: (row) => row.room, cell: (row) => times(row.room), right: true },
  { name: "Why not", value: (row) => row.why, cell: reason },
];

// ---- at home

export function localQuery(said, model) {
  const query = new URLSearchParams({ gpu: said.home, input_len: said.input_len, output_len: said.output_len });
  if (model) query.set("model", model);
  return query;
}

export const localLine = (said) => `predictor local${said.model ? ` --model ${said.model}` : ""} --gpu ${said.home.replaceAll(" ", "")} --input-len ${said.input_len} --output-len ${said.output_len}`;

const NARROW = ["q2_k", "q3_k_m"]; // below four bits, of which answers suffer most

/** The place of what is shown first: the largest model that runs in four bits or more. */
export function largest(rows) {
  const size = (row) => (row.fits ? (NARROW.includes(row.dtype) ? 1 : 2) : 0);
  return rows.reduce((best, row, place) => (size(row) >= size(rows[best]) ? place : best), 0);
}

const formatOf = (row) => row.dtype || "its own format";

export function localHeadline(row, rows) {
  const runs = rows.filter((one) => one.fits).length, gpus = (row.tp ?? 1) * (row.pp ?? 1);
  const whole = rows.length > 1 ? `${runs} of ${rows.length} models run on ${gpus} × ${row.gpu}. ` : "";
  if (!row.fits) return `${whole}${row.model} has no room: in ${formatOf(row)} it takes ${gigabytes(row.memory_bytes)} GB of each GPU, which has ${gigabytes(row.capacity_bytes)}.`;
  return `${whole}${row.model} in ${formatOf(row)}: ${digits(row.tokens_per_s)} tokens per second (${digits(row.tokens_per_s_low)}–${digits(row.tokens_per_s_high)}), the first after ${duration(row.ttft_s)}`;
}

/** The query whose answer says more of a row of `predictor local`. */
export function detailQuery(row, model) {
  const query = new URLSearchParams({ model, gpu: row.gpu, engine: row.engine, input_len: row.input_len, output_len: row.output_len, explain: "true" });
  if (row.dtype) query.set("dtype", row.dtype);
  for (const name of ["tp", "pp"]) if (row[name] > 1) query.set(name, row[name]);
  return query;
}

export function localTiles(row, details) {
  const interval = (name) => [row[name], row[`${name}_low`], row[`${name}_high`]];
  const range = (name) => durationInterval(...interval(name));
  return [
    tile("Tokens per second", digits(row.tokens_per_s), `${digits(row.tokens_per_s_low)} to ${digits(row.tokens_per_s_high)} · prompt and wait included`, intervalBar(interval("tokens_per_s"), null, `${digits(row.tokens_per_s_low)} to ${digits(row.tokens_per_s_high)} tokens per second`), async () => {
      const full = await details();
      return [operators(full.ops, "decode", full.tpot_s), ...words("Of one token; people read about 5 to 10 tokens per second.")];
    }),
    tile("First token", duration(row.ttft_s), range("ttft_s"), intervalBar(interval("ttft_s"), null, range("ttft_s")), async () => {
      const full = await details();
      return [operators(full.ops, "prefill", full.ttft_s), ...words(`Of a prompt of ${digits(row.input_len)} tokens.`)];
    }),
    memoryTile(row, details, row.fits ? "" : " · it has no room"),
  ];
}

export const localColumns = (named) => [
  { name: "Model", value: (row) => row.model, cell: named },
  { name: "Format", value: (row) => formatOf(row) },
  { name: "GB of each", value: (row) => row.memory_bytes, cell: (row) => gigabytes(row.memory_bytes), right: true },
  { name: "P(OOM)", value: (row) => row.p_oom, cell: (row) => risk(row.p_oom), right: true },
  { name: "Tokens/s", value: (row) => row.tokens_per_s, cell: (row) => `${digits(row.tokens_per_s)} (${digits(row.tokens_per_s_low)}–${digits(row.tokens_per_s_high)})`, right: true },
  { name: "First token", value: (row) => row.ttft_s, cell: (row) => durationInterval(row.ttft_s, row.ttft_s_low, row.ttft_s_high), right: true },
  { name: "Room", value: (row) => Number(row.fits), cell: (row) => (row.fits ? "yes" : `no: ${gigabytes(row.memory_bytes)} of ${gigabytes(row.capacity_bytes)} GB`) },
];
