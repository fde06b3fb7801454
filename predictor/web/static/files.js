// Files of one's own: a model, a trace of requests, prices, scores. The server keeps them, and gives an id to ask by.

import { header } from "./gguf.js";
import { own, sent } from "./questions.js";
import { digits, whole } from "./words.js";

const MOST_MIB = { config: 2, trace: 16, prices: 1, scores: 4 };

/** What a file is of, by its name, of a .csv by its first line, of a .json by whether it has results. */
async function kindOf(file) {
  const name = file.name.toLowerCase();
  if (/\.(parquet|jsonl)$/.test(name)) return "trace";
  if (name.endsWith(".toml")) return "prices";
  if (name.endsWith(".json") && /"results"\s*:\s*\{/.test(await file.slice(0, MOST_MIB.scores * 2 ** 20).text())) return "scores";
  if (!name.endsWith(".csv")) return "model";
  const [first] = (await file.slice(0, 4096).text()).split("\n");
  return /usd_per_hour|purchase_usd/i.test(first) ? "prices" : "trace";
}

/** Send a file; returns what the server says of it, with its kind. */
export async function taken(file, kind = null) {
  kind ??= await kindOf(file);
  const gguf = file.name.toLowerCase().endsWith(".gguf"), most = kind === "model" ? MOST_MIB.config : MOST_MIB[kind];
  if (!gguf && file.size > most * 2 ** 20) throw new Error(`${file.name} has ${digits(file.size / 2 ** 20)} MiB; ${kind === "model" ? "a config.json" : `a file of ${kind}`} has at most ${most}.`);
  const name = kind === "model" && file.name === "config.json" ? "dropped-model" : file.name;
  const answer = await sent(kind, gguf ? await header(file) : file, name);
  if (kind === "scores") own.scores = [...own.scores.filter((one) => one.id !== answer.id), { ...answer, as: "" }];
  else if (kind !== "model") own[kind] = answer;
  return { ...answer, kind };
}

/** What is said of a trace beside its button. */
export function traceText(trace) {
  const rate = trace.requests_per_s ? `, ${digits(trace.requests_per_s)} per second` : "";
  const load = trace.arrivals ? "They are the load." : "It tells no arrivals: the load above says when they come.";
  return `${trace.name}: ${whole(trace.requests)} requests${rate}, in the mean ${whole(trace.input_len)} tokens in and ${whole(trace.output_len)} out. ${load}`;
}

/** What is said of prices beside their button. */
export function pricesText({ name, gpus, replace }) {
  const of = gpus.slice(0, 4).join(", ") + (gpus.length > 4 ? ` and ${gpus.length - 4} others` : "");
  return `Your prices, ${name}${of && ` (${of})`}, ${replace ? "replace the list" : "come before the list"}.`;
}
