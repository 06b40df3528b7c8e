// What is common inside ε: features of the query, most telling first, with the share that has the query's value and its bits.

import { el, fixed, number, percent, say } from "./dom.js";
import { inBits } from "./stats.js";

const FIRST = 5;

/** Make the list; `set(features)` prepares, `show(told)` fills in what `told` says; `onPick(index)` when one is clicked. */
export function commons(onPick) {
  const list = el("div.common-rows", { role: "list" });
  const more = el("button.quiet.more", {
    type: "button",
    hidden: true,
    onclick: () => {
      open = !open;
      build();
      if (last) show(last);
    },
  });
  const basis = el("p.basis");
  const element = el("div.common", { role: "group", "aria-label": "What is common inside ε" }, basis, list, more);
  let features = null,
    slots = [],
    open = false,
    last = null,
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
      told = el("i.told"),
      reach = el("i.reach");
    const values = el("span.values"),
      share = el("span.share"),
      bits = el("span.bits");
    const one = {
      element: el(
        "div.feature",
        { role: "listitem" },
        name,
        el("span.meter", { "aria-hidden": "true" }, there, told, reach),
        values,
        share,
        bits,
      ),
    };
    name.addEventListener("click", () => onPick(one.index));
    return Object.assign(one, { name, there, told, reach, values, share, bits });
  }

  function show(told) {
    last = told;
    if (!features) return;
    say(basis, told.sentence);
    basis.title = told.sentence;
    slots.forEach((one, i) => {
      const entry = told.entries[i];
      const { name, index, value, bits, bits_low: low, bits_high: high, most } = entry;
      const wide = (share) => `${(100 * Math.max(0, share ?? 0)) / scale}%`;
      one.index = index;
      say(one.name, name);
      one.name.title = `${name} = ${value} in the query; show it beside each row`;
      one.name.dataset.value = value;
      one.name.setAttribute("aria-pressed", String(index === picked));
      one.element.classList.toggle("biased", !entry.trusted);
      one.there.style.setProperty("width", wide(most));
      one.told.style.setProperty("width", wide(bits));
      one.reach.style.setProperty("left", wide(low));
      one.reach.style.setProperty("width", bits === null ? "0" : wide(high - Math.max(0, low ?? 0)));
      say(one.values, entry.told);
      one.values.title = `in the query ${value}`;
      say(one.share, shareOf(entry));
      one.share.title = entry.share === null ? "" : `${number(Math.round(entry.agreeing))} of ${number(Math.round(entry.counted))}, with a 95 % interval`;
      say(one.bits, bitsOf(entry));
      one.bits.title = worthOf(entry);
    });
  }

  return {
    element,
    show,
    pick(index) {
      picked = index;
    },
    set(newFeatures) {
      const same = features && newFeatures && features.names.join() === newFeatures.names.join();
      features = newFeatures;
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

/** A share with its 95 % interval; one that is not the preimage's is marked, and has none. */
export function shareOf({ share, low, high, trusted, divergence }) {
  if (share === null) return "–";
  if (!trusted) return `${divergence === null || divergence === undefined ? "?" : "≠"} ${percent(share)}`;
  if (low === high) return percent(share);
  const digits = high < 0.0995 ? 1 : 0;
  const [at, from, to] = [share, low, high].map((part) => (100 * part).toFixed(digits));
  return `${at} % [${from}–${to}]`;
}

/** Bits or, of a decoder, how far its samples were measured to be from the exact preimage. */
export function bitsOf({ bits, divergence }) {
  if (divergence !== null && divergence !== undefined) return `KL ${fixed(divergence, 1)}`;
  return inBits(bits ?? null);
}

function worthOf({ bits, bits_low: low, bits_high: high, most, divergence, chance }) {
  if (divergence !== null && divergence !== undefined)
    return `its samples differ from the exact preimage by ${fixed(divergence, 2)} bits of KL, ${fixed(chance, 2)} by chance`;
  if (bits === null || bits === undefined) return "";
  if (bits <= -0.05) return RARER;
  return `${fixed(bits, 2)} bits [${low === null ? "–" : fixed(low, 2)}, ${fixed(high, 2)}] of ${fixed(most, 2)} at most`;
}

const RARER = "the query's value is less common inside ε than among all inputs";
