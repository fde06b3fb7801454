// The figures of a plan, each with its interval; a tile turns over to its arithmetic.

import { digits, dollars, drawn, duration, element, gigabytes, hours, limit as promise, percent, risk } from "./words.js";

const KINDS = {
  weights_bytes: "weights",
  kv_cache_bytes: "KV cache",
  gradients_bytes: "gradients",
  optimizer_bytes: "optimizer state",
  activations_bytes: "activations",
  logits_bytes: "logits and loss",
  autocast_bytes: "16-bit copies",
  gathered_bytes: "gathered weights",
  temporary_bytes: "temporaries",
  cuda_graphs_bytes: "CUDA graphs",
  runtime_bytes: "CUDA context, buffers",
  fragmentation_bytes: "fragmentation",
  correction_bytes: "learned correction",
};

/** A tile: a button whose other side is made when it is first turned. bar: an SVG. back: () → nodes. */
export function tile(name, value, under, bar, back) {
  const id = `tile-${name.replace(/\W+/g, "-")}`;
  const behind = element("div", { class: "behind", id, hidden: true });
  const turn = element("button", { type: "button", class: "turn", "aria-expanded": "false", "aria-controls": id }, "How?");
  const front = element("div", { class: "front" }, element("p", { class: "value" }, value), bar ?? "", element("p", { class: "under" }, under));
  turn.addEventListener("click", async () => {
    const open = behind.hidden;
    turn.setAttribute("aria-expanded", String(open));
    turn.textContent = open ? "Back" : "How?";
    behind.hidden = !open;
    front.hidden = open;
    if (open && !behind.childElementCount) behind.replaceChildren(...(await back()));
  });
  turn.setAttribute("aria-label", `How? ${name}`);
  return element("article", { class: "tile", "data-tile": name }, element("header", {}, element("h3", {}, name), turn), front, behind);
}

/** An interval on a scale from 0, with what is promised. */
export function intervalBar([value, low, high], limit = null, text = "") {
  const most = Math.max(high, limit ?? 0) * 1.15 || 1;
  const at = (number) => `${(100 * Math.min(number, most)) / most}%`;
  const bar = drawn("svg", { class: "bar", role: "img", "aria-label": text, height: 26, width: "100%" });
  bar.append(
    drawn("line", { x1: 0, x2: "100%", y1: 13, y2: 13, class: "axis" }),
    drawn("rect", { x: at(low), width: `${(100 * (Math.min(high, most) - low)) / most}%`, y: 8, height: 10, rx: 3, class: "interval" }),
    drawn("circle", { cx: at(value), cy: 13, r: 5, class: "point" }),
  );
  if (limit) bar.append(drawn("line", { x1: at(limit), x2: at(limit), y1: 1, y2: 25, class: "limit" }));
  return bar;
}

/** Kinds of memory, stacked, against what there is. */
function memoryBar(row) {
  const kinds = Object.keys(KINDS).filter((name) => row[name] > 5e7);
  const most = Math.max(row.capacity_bytes, row.memory_bytes_high);
  const bar = drawn("svg", { class: "bar", role: "img", height: 26, width: "100%", "aria-label": memoryText(row, kinds) });
  let from = 0;
  kinds.forEach((name, place) => {
    bar.append(drawn("rect", { x: `${(100 * from) / most}%`, width: `${(100 * row[name]) / most}%`, y: 6, height: 14, class: `kind kind-${place % 6}` }));
    from += row[name];
  });
  const end = `${(100 * row.capacity_bytes) / most}%`;
  bar.append(drawn("line", { x1: end, x2: end, y1: 1, y2: 25, class: "limit" }));
  return bar;
}

const memoryText = (row, kinds) =>
  `${kinds.map((name) => `${KINDS[name]} ${gigabytes(row[name])} GB`).join(", ")}, of ${gigabytes(row.capacity_bytes)} GB`;

function legend(row) {
  const kinds = Object.keys(KINDS).filter((name) => row[name] > 5e7);
  return element(
    "ul",
    { class: "legend" },
    ...kinds.map((name, place) =>
      element("li", {}, drawn("svg", { width: 10, height: 10, "aria-hidden": "true" }, drawn("rect", { width: 10, height: 10, class: `kind kind-${place % 6}` })), ` ${KINDS[name]} ${gigabytes(row[name])}`),
    ),
  );
}

/** Terms and their values, one a line; the last is the result. */
export function sum(lines) {
  return element("dl", { class: "sum" }, ...lines.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value))));
}

export const words = (...texts) => texts.map((text) => element("p", {}, text));

/** The lines of a phase by operator, the longest first, the rest together. */
export function operators(ops, phase, total) {
  const times = new Map();
  for (const op of ops.filter((one) => one.phase === phase)) times.set(op.name, (times.get(op.name) ?? 0) + op.latency_s);
  const sorted = [...times].sort((one, two) => two[1] - one[1]);
  const shown = sorted.slice(0, 6).map(([name, seconds]) => [name.replaceAll("_", " "), duration(seconds, total)]);
  const rest = sorted.slice(6).reduce((all, [, seconds]) => all + seconds, 0);
  return sum([...shown, ...(rest ? [[`${sorted.length - 6} others`, duration(rest, total)]] : []), ["together", duration(total, total)]]);
}

/** The tile of memory. row, details: as below; more: what to say beside the risk. */
export function memoryTile(row, details, more = "", after = "") {
  const memory = element("div", {});
  details().then((full) => memory.replaceChildren(memoryBar(full), legend(full)), () => undefined);
  return tile("Memory of each GPU", `${gigabytes(row.memory_bytes)} GB`, `P(out of memory) ${risk(row.p_oom)}${more}`, memory, async () => {
    const full = await details();
    const kinds = Object.keys(KINDS).filter((name) => Math.abs(full[name]) > 5e6);
    return [sum([...kinds.map((name) => [KINDS[name], `${gigabytes(full[name])} GB`]), ["needed", `${gigabytes(full.memory_bytes)} GB`], ["there is", `${gigabytes(full.capacity_bytes)} GB`]]), ...words(...(after ? [after] : []))];
  });
}

/** The tiles of a plan. promised: seconds by name. details: () → the row of `predict --explain`. */
export function planTiles(plan, promised, details) {
  const interval = (name) => [plan[name], plan[`${name}_low`], plan[`${name}_high`]];
  const seconds = (name) => {
    const [value, low, high] = interval(name);
    const limit = promised[name];
    const kept = limit ? `${promise(limit)} promised` : "nothing promised";
    return [duration(value), `${duration(low, value)} to ${duration(high, value)} · ${kept}`, intervalBar(interval(name), limit, `${duration(low)} to ${duration(high)}, ${kept}`)];
  };
  const users = plan.requests_per_s * plan.e2e_s;
  const [rate, least, most] = interval("sustainable_rate");
  return [
    tile("First token, p99", ...seconds("ttft_p99_s"), async () => {
      const row = await details();
      return [
        operators(row.ops, "prefill", row.ttft_s),
        ...words(`That is the mean prompt and its wait. Simulated request by request, 99 in 100 wait at most ${duration(row.ttft_p99_s)}.`),
      ];
    }),
    tile("Each token", ...seconds("tpot_s"), async () => {
      const row = await details();
      return [operators(row.ops, "decode", row.tpot_s), ...words(`One step of all sequences of a replica gives each its next token; 99 in 100 requests have a mean below ${duration(row.tpot_p99_s)}.`)];
    }),
    tile(
      "Users",
      `${digits(users)} at once`,
      `${digits(plan.users_per_replica)} in each replica · holds ${digits(rate)} requests/s (${digits(least)}–${digits(most)})`,
      intervalBar([rate, least, most], plan.requests_per_s, `holds ${digits(rate)} requests per second, ${digits(plan.requests_per_s)} are asked`),
      async () => [
        sum([
          ["requests per second", digits(plan.requests_per_s)],
          ["× seconds of each", digits(plan.e2e_s)],
          ["users at once", digits(users)],
          [`÷ ${plan.replicas} replica${plan.replicas > 1 ? "s" : ""}`, digits(plan.users_per_replica)],
        ]),
        ...words("Little's law. The mark is the load that is asked."),
      ],
    ),
    memoryTile(plan, details, "", "The KV cache is what the load fills of it at most."),
    tile(
      "A million tokens",
      dollars(plan.usd_per_mtok),
      plan.usd_per_hour === null ? "no price of this GPU is listed" : `${dollars(plan.usd_per_hour)} per hour · listed ${plan.price_date}`,
      plan.usd_per_mtok === null ? "" : intervalBar(interval("usd_per_mtok"), null, `${dollars(plan.usd_per_mtok_low)} to ${dollars(plan.usd_per_mtok_high)}`),
      async () =>
        plan.usd_per_hour === null
          ? words("No price of this GPU is listed; drop a file of your own.")
          : [
              sum([
                ["per hour, of all GPUs", dollars(plan.usd_per_hour)],
                ["÷ seconds of an hour", "3,600"],
                ["÷ tokens per second", digits(plan.tokens_per_s)],
                ["× a million tokens", dollars(plan.usd_per_mtok)],
              ]),
              ...words(plan.price_source, "Of tokens that come out, at the load that is asked; a fuller machine is cheaper per token."),
            ],
    ),
  ];
}

/** The tiles of a training on some GPUs. details: () → the row of `predict --explain`. */
export function trainTiles(row, details) {
  const interval = (name) => [row[name], row[`${name}_low`], row[`${name}_high`]];
  const bar = (name, text) => intervalBar(interval(name), null, `${text(row[`${name}_low`])} to ${text(row[`${name}_high`])}`);
  return [
    tile("The whole training", hours(row.train_hours), `${hours(row.train_hours_low, row.train_hours)} to ${hours(row.train_hours_high, row.train_hours)}`, bar("train_hours", hours), async () => [
      sum([
        ["tokens", digits(row.train_tokens)],
        ["÷ tokens per second", digits(row.tokens_per_s)],
        ["÷ seconds of an hour", "3,600"],
        ["hours", digits(row.train_hours)],
      ]),
    ]),
    tile("An optimizer step", duration(row.step_s), `${duration(row.step_s_low, row.step_s)} to ${duration(row.step_s_high, row.step_s)}${row.mfu ? ` · MFU ${percent(row.mfu)}` : ""}`, bar("step_s", duration), async () => {
      const full = await details();
      return [...new Set(full.ops.map((op) => op.phase))].flatMap((phase) => [
        element("h4", {}, phase),
        operators(full.ops, phase, full.ops.filter((op) => op.phase === phase).reduce((all, op) => all + op.latency_s, 0)),
      ]);
    }),
    memoryTile(row, details, row.fits ? "" : " · it does not fit", "At the peak; not all is alive at once."),
    tile("Cost", dollars(row.train_usd), row.usd_per_hour === null ? "no price of this GPU is listed" : `${dollars(row.usd_per_hour)} per hour · listed ${row.price_date}`, row.train_usd === null ? "" : bar("train_usd", dollars), async () =>
      row.usd_per_hour === null
        ? words("No price of this GPU is listed.")
        : [sum([["hours", digits(row.train_hours)], ["× per hour, of all GPUs", dollars(row.usd_per_hour)], ["cost", dollars(row.train_usd)]]), ...words(row.price_source)],
    ),
    tile("Energy", row.train_kwh === null ? "not known" : `${digits(row.train_kwh)} kWh`, "of the GPUs", row.train_kwh === null ? "" : bar("train_kwh", (kwh) => `${digits(kwh)} kWh`), async () =>
      words("Hours × GPUs × the power that they draw, at most what they are limited to. Cooling comes on top (pue)."),
    ),
  ];
}
