// The columns of the tables, and what is said above them.

import { BASES, digits, dollars, durationInterval, percent, risk, settings } from "./words.js";

const figure = (value, text) => (value === null || value === undefined ? "–" : text(value));
const interval = (row, name) => (row[name] === null || row[name] === undefined ? "–" : durationInterval(row[name], row[`${name}_low`], row[`${name}_high`]));

/** Of plans. named, reason: cells of a row. */
export const planColumns = (named, reason) => [
  { name: "GPU", value: (row) => row.gpu, cell: named },
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
  { name: "Why", value: (row) => row.why, cell: reason },
];
/** Of trainings. */
export const trainColumns = (named, reason) => [
  { name: "GPU", value: (row) => row.gpu, cell: named },
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

/** What is said above a table of so many rows, of which some hold; of others there is none. */
export const CAPTIONS = {
  plan: (all, holds, lost) => `${all} plans, ${holds} of which hold; ${lost} GPUs have none, and why.`,
  train: (all, holds, lost) => `${all} trainings, ${holds} of which fit; ${lost} GPUs have none, and why.`,
  upgrade: (all, holds, lost, have) => `${all} in place of ${have}, as ratios.`,
  quality: (all, holds, lost) => `${all} models on GPUs, ${holds} of which have room${lost ? `; ${lost} cannot run, and why` : ""}.`,
  local: (all, holds, lost) => `${all} models, ${holds} of which have room${lost ? `; ${lost} cannot be answered, and why` : ""}.`,
};
