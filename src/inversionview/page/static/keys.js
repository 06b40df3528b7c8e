// Keys for everything, and the help that lists them. Keys typed into a field or within the rows are left to these.

import { el } from "./dom.js";

const TYPED = "input:not([type=range]), select, textarea, [contenteditable]";
const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };

/** Listen on `target`; `bindings`: `{keys, said, run}`. Returns the help dialog, to be put into the page. */
export function listen(target, bindings) {
  const rows = bindings.map(({ keys, said }) =>
    el(
      "div",
      {},
      el(
        "dt",
        {},
        keys.map((key) => el("kbd", {}, NAMES[key] ?? key)),
      ),
      el("dd", {}, said),
    ),
  );
  const dialog = el(
    "dialog.help",
    { "aria-label": "Keys" },
    el("h2", {}, "Keys"),
    el("dl", {}, rows, el("div", {}, el("dt", {}, el("kbd", {}, "?")), el("dd", {}, "this help"))),
    el("form", { method: "dialog" }, el("button", {}, "Close")),
  );
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  const table = new Map(bindings.flatMap((each) => each.keys.map((key) => [key, each.run])));
  table.set("?", () => dialog.showModal());
  target.addEventListener("keydown", (event) => {
    const from = event.composedPath()[0];
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || dialog.open) return;
    if (event.key === "Escape" && from.matches?.(TYPED)) return from.blur();
    if (from.matches?.(TYPED)) return;
    if (event.key.startsWith("Arrow") && from.closest?.("[role=grid], input[type=range]")) return;
    const run = table.get(event.key);
    if (!run) return;
    event.preventDefault();
    run(event.key);
  });
  return dialog;
}
