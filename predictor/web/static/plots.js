// Plots as SVG that is drawn here: points that can be clicked, and reached by keyboard.

import { digits, dollars, drawn, duration, element } from "./words.js";

const WIDTH = 460, HEIGHT = 280;
const LEFT = 58, RIGHT = 16, TOP = 14, BOTTOM = 44;

/** Round steps from `least` or below to at least `most`. */
function ticks(most, least = 0) {
  const rough = (most - least) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const made = [];
  for (let at = Math.floor(least / step); at * step < most + step * 0.999; at++) made.push(at * step);
  return made;
}

const tidy = (text) => text.replace(/\.0+(?!\d)/, "");

/** Axes from 0, or y from its least; x and y: { most, text, format }. Returns the svg and what places a value. */
function axes(title, x, y) {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "group", "aria-label": title });
  const xs = ticks(x.most), ys = ticks(y.most, y.least);
  const toX = (value) => LEFT + ((WIDTH - LEFT - RIGHT) * Math.min(value, xs.at(-1))) / xs.at(-1);
  const toY = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (Math.min(value, ys.at(-1)) - ys[0])) / (ys.at(-1) - ys[0]);
  for (const at of xs) svg.append(drawn("text", { x: toX(at), y: HEIGHT - BOTTOM + 16, class: "tick", "text-anchor": "middle" }, tidy(x.format(at))));
  for (const at of ys) {
    svg.append(
      drawn("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: toY(at), y2: toY(at), class: "grid" }),
      drawn("text", { x: LEFT - 6, y: toY(at) + 4, class: "tick", "text-anchor": "end" }, tidy(y.format(at))),
    );
  }
  svg.append(drawn("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, class: "name", "text-anchor": "middle" }, x.text));
  return { svg, toX, toY };
}

/** A point that is a button. */
function point(at, text, pressed, choose, hollow = false) {
  const made = drawn(
    "g",
    { class: `dot${pressed ? " chosen" : ""}${hollow ? " hollow" : ""}`, tabindex: 0, role: "button", "aria-pressed": String(pressed), "aria-label": text, transform: `translate(${at.join(" ")})`, onclick: choose },
    drawn("title", {}, text),
    drawn("circle", { r: 13, class: "reach" }),
    drawn("circle", { r: 6 }),
  );
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose();
  });
  return made;
}

const figure = (title, caption, svg) => element("figure", {}, element("figcaption", {}, element("h3", {}, title), element("p", {}, caption)), svg);

/** Cost against time, no plan on the line is beaten in both; or a quality against either, which rises, from near the
 * least there is. rows: { x, low, high, y, error, text }; y may be null. */
export function pareto(title, caption, rows, chosen, choose, x, yText, limit = null, { rises = null, format = dollars } = {}) {
  const priced = rows.map((row, place) => ({ ...row, place })).filter((row) => row.y !== null && row.x !== null);
  if (!priced.length) return figure(title, "Of none of them both are known.", "");
  const near = priced.filter((row) => row.holds || row.place === chosen), scaled = near.length ? near : priced;
  const mostX = Math.max(1.3 * (limit ?? 0), ...scaled.map((row) => 1.1 * row.high)), [mostY, least] = rises === null ? [1.25 * Math.max(...scaled.map((row) => row.y)), 0] : around(priced);
  const shown = priced.filter((row) => row.x <= mostX && row.y <= mostY), left = priced.length - shown.length;
  const { svg, toX, toY } = axes(title, { most: mostX, text: x.text, format: (value) => x.format(value, mostX) }, { most: mostY, least, format });
  svg.append(drawn("text", { x: LEFT + 4, y: TOP - 2, class: "name" }, yText));
  const cost = (row) => (rises ? -row.y : row.y);
  const front = shown
    .filter((row) => !shown.some((other) => other.x <= row.x && cost(other) <= cost(row) && (other.x < row.x || cost(other) < cost(row))))
    .sort((one, two) => one.x - two.x);
  svg.append(drawn("polyline", { class: "front-line", points: front.map((row) => `${toX(row.x)},${toY(row.y)}`).join(" ") }));
  if (limit) promise(svg, { x1: toX(limit), x2: toX(limit), y1: TOP, y2: HEIGHT - BOTTOM });
  for (const row of shown) svg.append(drawn("line", { x1: toX(row.low), x2: toX(row.high), y1: toY(row.y), y2: toY(row.y), class: "whisker" }));
  for (const row of shown.filter((row) => row.error)) svg.append(drawn("line", { x1: toX(row.x), x2: toX(row.x), y1: toY(row.y - row.error), y2: toY(row.y + row.error), class: "whisker" }));
  for (const row of shown.sort((one) => (one.place === chosen ? 1 : -1)))
    svg.append(point([toX(row.x), toY(row.y)], row.text, row.place === chosen, () => choose(row.place), !row.holds));
  return figure(title, left ? `${caption} ${left} that ${left > 1 ? "are" : "is"} slower or dearer lie outside.` : caption, svg);
}

/** The most and the least of an axis around values with their errors. */
function around(rows) {
  const most = Math.max(...rows.map((row) => row.y + row.error)), least = Math.min(...rows.map((row) => row.y - row.error));
  const room = (most - least) / 4 || Math.abs(most) / 20 || 1;
  return [most + room, least < 0 ? least - room : Math.max(least - room, 0)];
}

function promise(svg, ends) {
  svg.append(drawn("line", { ...ends, class: "limit" }));
}

/** A latency against users at once, with its interval. rows: answers to rising loads. */
export function againstUsers(title, name, rows, asked, limit, choose) {
  const points = rows.map((row, place) => ({ place, users: row.requests_per_s * row.e2e_s, value: row[name], low: row[`${name}_low`], high: row[`${name}_high`], full: row.saturated }));
  const first = points.findIndex((one) => one.full && one.place !== asked);
  const beyond = first < 0 || first <= asked ? [] : points.splice(first); // queues that grow for ever have no latency
  const highest = Math.max(...points.map((one) => one.high), (limit ?? 0) * 1.2);
  const most = limit ? Math.min(highest, Math.max(limit * 4, ...points.map((one) => 1.2 * one.value))) : highest;
  const { svg, toX, toY } = axes(title, { most: Math.max(...points.map((one) => one.users)) * 1.02, text: "users at once", format: digits }, { most, format: (seconds) => duration(seconds, most) });
  const edge = (end) => points.map((one) => `${toX(one.users)},${toY(one[end])}`);
  svg.append(
    drawn("polygon", { class: "band", points: [...edge("low"), ...edge("high").reverse()].join(" ") }),
    drawn("polyline", { class: "line", points: edge("value").join(" ") }),
  );
  if (limit && limit < most) promise(svg, { x1: LEFT, x2: WIDTH - RIGHT, y1: toY(limit), y2: toY(limit) });
  for (const one of points) {
    const text = `${digits(one.users)} users: ${duration(one.value)} (${duration(one.low)} to ${duration(one.high)})${one.full ? ", more than it holds" : ""}`;
    svg.append(point([toX(one.users), toY(one.value)], text, one.place === asked, () => choose(one.place), one.full));
  }
  const told = `${limit ? "With what is promised; a" : "A"} point sets the load.`;
  return figure(title, beyond.length ? `${told} Beyond the last, more is asked than it holds.` : told, svg);
}
