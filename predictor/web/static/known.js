// What is known of the errors of an answer: of operators that were held out, and of whole answers that others measured.

import { asked } from "./questions.js";
import { BASES, percent, whole as count } from "./words.js";

const at = (id) => document.getElementById(id);
const METRICS = { ttft_s: "TTFT", tpot_s: "TPOT", e2e_s: "E2E", step_s: "step", tokens_per_s: "tokens/s" };

const kept = new Map();

/** An answer that stays as it is; null where there is none. */
function once(name, query) {
  const key = `${name}?${new URLSearchParams(query)}`;
  if (!kept.has(key)) kept.set(key, asked(name, new URLSearchParams(query)).catch(() => (kept.delete(key), null)));
  return kept.get(key);
}

/** Show both. shown: () → whether the row is still the one that is shown. */
export function badge(row, phase, shown) {
  at("badge").textContent = BASES[row.basis] ?? row.basis;
  at("badge").dataset.basis = row.basis;
  at("validated").textContent = "";
  operatorsOf(row, shown);
  wholeAnswers(row, phase, shown);
}

async function operatorsOf(row, shown) {
  const seen = row.basis === "seen-gpu";
  const near = row.basis === "unseen-gpu" && row.nearest_gpu && row.nearest_gpu !== row.gpu ? `The nearest that was measured is ${row.nearest_gpu}. ` : "";
  at("known").textContent = near;
  if (row.basis === "engine-rates") return;
  const cells = (await once("ledger", seen ? { gpu: row.gpu } : {})) ?? [];
  const told = (held, text) => {
    const found = cells.find((cell) => cell.held_out === held);
    return found && `${text} err by ${percent(found.median_ape)} in the median (${count(found.rows)} measured)`;
  };
  const parts = seen ? [told("rows-out", "Operators of this GPU that were left out")] : [told("gpu-out", "Operators of GPUs left out"), told("generation-out", "of whole generations left out")];
  if (shown() && parts.some(Boolean)) at("known").textContent = `${near}${parts.filter(Boolean).join(", ")}.`;
}

/** Of serving by the engine, of training by any program. */
async function wholeAnswers(row, phase, shown) {
  const serves = phase === "serve";
  const found = await once("validated", { gpu: row.gpu, phase, ...(serves ? { engine: row.engine } : {}) });
  if (!found || !shown()) return;
  const what = serves ? `answers of ${row.engine}` : "training runs", own = found.some((one) => one.gpu === row.gpu);
  if (!found.length) return (at("validated").textContent = `No measured ${serves ? `runs of ${row.engine}` : "training runs"} on such a GPU: how far whole answers are off there is not known.`);
  const place = (one) => [serves ? "" : one.engine, own ? "" : one.gpu].filter(Boolean).join(" on ");
  const parts = found.map((one) => `${METRICS[one.metric]}${place(one) && ` (${place(one)})`} off by ${percent(one.median)} in the median, ${percent(one.covered)} in the ${percent(one.level)} interval (${count(one.runs)} measured)`);
  at("validated").textContent = `Whole ${what} that others measured ${own ? "on this GPU" : "on others of its kind, none on this"}: ${parts.join("; ")}.`;
}
