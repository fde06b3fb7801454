// Numbers as people read them.

/** Three significant digits, without an exponent. */
export function digits(number) {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  if (!number) return "0";
  const size = Math.abs(number);
  if (size >= 99.95) return Math.round(number).toLocaleString("en-US");
  if (size < 0.01) return number.toPrecision(2);
  return number.toFixed(size >= 9.995 ? 1 : 2);
}

/** Seconds with a unit that suits them. */
export function duration(seconds, like = seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (like >= 1 || like === 0) return `${digits(seconds)} s`;
  return like >= 1e-3 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds * 1e6)} µs`;
}

/** "439 ms (321–601)". */
export function durationInterval(value, low, high) {
  const [scale] = value >= 1 ? [1] : value >= 1e-3 ? [1e3] : [1e6];
  return `${duration(value)} (${digits(low * scale)}–${digits(high * scale)})`;
}

/** A whole number. */
export const whole = (number) => Math.round(number).toLocaleString("en-US");

/** Hours, of less than one in minutes; like: what sets the unit. */
export const hours = (number, like = number) => (number === null || number === undefined ? "–" : like < 1 ? `${digits(60 * number)} min` : `${digits(number)} h`);

/** What is promised: "40 ms", "1 s". */
export function limit(seconds) {
  const [scale, unit] = seconds >= 1 ? [1, "s"] : [1e3, "ms"];
  return `${Number((seconds * scale).toPrecision(4))} ${unit}`;
}

export const dollars = (usd) => (usd === null || usd === undefined ? "no price" : `$${digits(usd)}`);
export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);
export const gigabytes = (bytes) => digits(bytes / 1e9);
export const risk = (share) => (share < 1e-3 ? "< 0.1 %" : share > 0.999 ? "> 99.9 %" : `${digits(100 * share)} %`);

export const BASES = {
  "seen-gpu": "seen GPU",
  "calibrated-gpu": "measured here",
  "unseen-gpu": "unseen GPU",
  "engine-rates": "rates of the engine",
  "bound-only": "bound only",
};

/** "5 × (1 × H100-SXM-80GB), tp 1, 5 replicas". */
export function layout(row) {
  const degrees = [`tp ${row.tp}`];
  for (const name of ["pp", "ep", "attention_dp"]) if (row[name] > 1) degrees.push(`${name.replace("_", " ")} ${row[name]}`);
  degrees.push(`${row.replicas} replica${row.replicas > 1 ? "s" : ""}`);
  return `${row.n_gpus} × ${row.gpu}, ${degrees.join(", ")}`;
}

/** What is set of the engine besides. */
export function settings(row) {
  const own = ["max_num_batched_tokens", "max_num_seqs", "gpu_memory_utilization"].filter((name) => row[name]);
  return [row.dtype, row.engine, ...own.map((name) => `${name} ${row[name]}`)].join(", ");
}

/** An element with attributes, properties that start with "on", and children. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}
