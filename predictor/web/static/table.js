// A table whose columns sort, and the same as CSV.

import { element } from "./words.js";

/** Fill a table. columns: { name, value: row → number or text, cell: row → node, right }. Rows without a value come
 * last. choose: of a row that is marked by `chosen`. */
export function fillTable(table, caption, columns, rows, { sort, chosen, choose, resort }) {
  const ordered = sort.column < 0 ? rows : sorted(rows, columns[sort.column], sort.falling);
  const heads = columns.map((column, place) => {
    const own = place === sort.column;
    const head = element("th", { scope: "col", class: column.right ? "right" : null, "aria-sort": own ? (sort.falling ? "descending" : "ascending") : null });
    head.append(element("button", { type: "button", onclick: () => resort({ column: place, falling: own && !sort.falling }) }, column.name, element("span", { "aria-hidden": "true" }, own ? (sort.falling ? " ▾" : " ▴") : "")));
    return head;
  });
  const body = ordered.map((row) => {
    const shown = row.selectable ? columns : [...columns.slice(0, 2), columns.at(-1)];
    const cells = shown.map((column, place) => {
      const content = column.cell ? column.cell(row) : (column.value(row) ?? "–");
      const wide = row.selectable || place < 2 ? {} : { colspan: columns.length - 2, class: "reason" };
      return element(place ? "td" : "th", { scope: place ? null : "row", class: column.right ? "right" : null, ...wide }, content);
    });
    const line = element("tr", { class: row === chosen ? "chosen" : null, "data-holds": row.holds === undefined ? null : String(row.holds) }, ...cells);
    if (choose && row.selectable) line.addEventListener("click", (event) => event.target.closest("button, a") || choose(row));
    return line;
  });
  table.replaceChildren(element("caption", {}, caption), element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
}

function sorted(rows, column, falling) {
  const sign = falling ? -1 : 1;
  return [...rows].sort((one, two) => {
    const [a, b] = [column.value(one), column.value(two)];
    if (a === b) return 0;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    return sign * (typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b), "en", { numeric: true }) : a - b);
  });
}

/** Offer rows of the API as a file. */
export function download(rows, name) {
  const keys = [...new Set(rows.flatMap(Object.keys))];
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // no formula of a spreadsheet
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [keys, ...rows.map((row) => keys.map((key) => row[key]))].map((line) => line.map(cell).join(","));
  const link = element("a", { href: URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
