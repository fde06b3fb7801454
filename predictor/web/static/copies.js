// What is taken along: lines and files to copy.

import { element } from "./words.js";

const at = (id) => document.getElementById(id);

/** Show lines, each with a button to copy it, files that unfold, and the address. */
export function showCopies(lines, texts = {}) {
  const rows = lines.map(([name, text]) => element("div", { class: "copy" }, element("span", {}, name), element("code", { tabindex: 0 }, text), copyButton(name, () => text)));
  const link = element("div", { class: "copy" }, element("span", {}, "This question"), element("code", { tabindex: 0 }, location.href), copyButton("This question", () => location.href));
  const folded = Object.entries(texts).map(([name, text]) =>
    element("details", {}, element("summary", {}, name), element("div", { class: "file" }, element("pre", { tabindex: 0, role: "region", "aria-label": name }, text), copyButton(name, () => text))),
  );
  at("copies").replaceChildren(...rows.filter((row) => row.querySelector("code").textContent), ...folded, link);
}

function copyButton(name, text) {
  const button = element("button", { type: "button", "aria-label": `Copy: ${name}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}
