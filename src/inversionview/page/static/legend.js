// What colours and marks mean: that of effects beside the rows that have them, all others once at the foot of the page.

import { el, say } from "./dom.js";

/** The bar from less likely to likelier; `show(samples)` shows it where any of them has an effect. */
export function effects() {
  const whose = el("span");
  const element = el(
    "p.effects",
    { hidden: true },
    "less likely ",
    el("i", { "aria-hidden": "true" }),
    " likelier by the activation",
    whose,
  );
  return {
    element,
    show(samples) {
      const known = samples.filter(({ effect }) => effect).length;
      element.hidden = !known;
      say(whose, known && known < samples.length ? " (rows of the decoder)" : "");
    },
  };
}

/** What all other marks mean. */
export function legend() {
  return el(
    "footer.legend",
    {},
    el("span", {}, el("span.t.at", {}, el("span.word", {}, "token")), " where the distance is reached; in natural text what follows is dimmed, for the activation does not depend on it. "),
    el("span", {}, el("span.t.attended", { style: { "--a": 0.9 } }, "token"), " attended to by the head. "),
    el("span", {}, el("span.m", {}, "·"), " a space on its own, ", el("span.m", {}, "⏎"), " a line end. "),
    el(
      "span",
      {},
      "Bars of common features: bits told, of those there are to tell; in brackets and as lines 95 % intervals; ≠ marks shares " +
        "of a decoder's samples that were measured to differ from the preimage's.",
    ),
  );
}
