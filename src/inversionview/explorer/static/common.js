// What is common: features of the query that the rows inside ε share, most telling first, as bits of those to be told.

import { el, fixed, percent, say } from "./dom.js";
import { common, spread } from "./stats.js";

const FIRST = 5;

/** Make the list; `set(rows, features, counts)` prepares, `show(k)` fills in; `onPick(index)` when one is clicked. */
export function commons(onPick) {
  const list = el("div.common-rows", { role: "list" });
  const more = el("button.quiet.more", {
    type: "button",
    hidden: true,
    onclick: () => {
      open = !open;
      build();
      show(last);
    },
  });
  const element = el("div.common", { role: "group", "aria-label": "What is common inside ε" }, list, more);
  let rows = [],
    features = null,
    counts = [],
    slots = [],
    open = false,
    last = 0,
    scale = 1,
    picked = null;

  function build() {
    const wanted = open ? features.names.length : Math.min(FIRST, features.names.length);
    slots = Array.from({ length: wanted }, slot);
    list.replaceChildren(...slots.map((each) => each.element));
    more.hidden = features.names.length <= FIRST;
    more.textContent = open ? "fewer features" : `all ${features.names.length} features`;
  }

  function slot() {
    const name = el("button.quiet.name", { type: "button" });
    const there = el("i.there"),
      told = el("i.told");
    const values = el("span.values"),
      share = el("span.share"),
      bits = el("span.bits");
    const one = {
      element: el(
        "div.feature",
        { role: "listitem" },
        name,
        el("span.meter", { "aria-hidden": "true" }, there, told),
        values,
        share,
        bits,
      ),
    };
    name.addEventListener("click", () => onPick(one.index));
    return Object.assign(one, { name, there, told, values, share, bits });
  }

  function show(k) {
    last = k;
    if (!features) return;
    const found = common(features, counts, k);
    slots.forEach((one, i) => {
      const { name, index, value, share, bits, most } = found[i];
      one.index = index;
      say(one.name, name);
      one.name.title = `${name} = ${value} in the query; show it beside each row`;
      one.name.setAttribute("aria-pressed", String(index === picked));
      one.there.style.setProperty("width", `${(100 * (most ?? 0)) / scale}%`);
      one.told.style.setProperty("width", `${(100 * Math.max(0, bits ?? 0)) / scale}%`);
      say(one.values, k ? spread(rows, index, k) : "–");
      say(one.share, share === null ? "–" : percent(share));
      say(one.bits, bits === null ? "–" : `${fixed(bits, 1)} bits`);
      one.values.title = `in the query ${value}`;
    });
    return found;
  }

  return {
    element,
    show,
    best: (k) => common(features, counts, k).find(({ bits }) => bits !== null)?.index ?? 0,
    pick(index) {
      picked = index;
    },
    set(newRows, newFeatures, newCounts) {
      const same = features && newFeatures && features.names.join() === newFeatures.names.join();
      [rows, features, counts] = [newRows, newFeatures, newCounts];
      element.hidden = !features;
      if (!features) return;
      scale = Math.max(
        1,
        ...features.names.map((name) => (features.prior[name] ? -Math.log2(features.prior[name]) : 0)),
      );
      if (!same) build();
    },
  };
}
