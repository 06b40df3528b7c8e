// A reading in words: what the exact preimage has in common, and how true that is of inputs that the sentence was not made from.

import { el, fixed, number, threshold } from "./dom.js";

/** Make the section; `ask()` fetches the answer of the server, when it is opened and again after `reset()`. */
export function inWords(ask) {
  const result = el("div.result", { role: "status" });
  const element = el("details.more-about", {}, el("summary", {}, "In words: what is common, and is it true?"), result);
  let asked = null; // what was asked last; an answer to anything before is dropped
  async function fill() {
    if (asked || !element.open) return;
    result.replaceChildren(el("p.hint", {}, "Comparing inputs on both sides of ε…"));
    const mine = (asked = ask());
    try {
      const answer = worded(await mine);
      if (mine === asked) result.replaceChildren(...answer);
    } catch (error) {
      if (mine !== asked) return;
      if (error.name === "AbortError") asked = null;
      result.replaceChildren(...(asked ? [el("p.failed", {}, error.message)] : []));
    }
  }
  element.addEventListener("toggle", fill);
  return {
    element,
    reset() {
      asked = null;
      result.replaceChildren();
      fill();
    },
  };
}

function worded({ statement, epsilon, distance, balanced_accuracy, auroc, inputs, gap, line }) {
  if (balanced_accuracy === null) return [el("p", {}, statement)];
  const score = `balanced accuracy ${fixed(balanced_accuracy, 2)}, AUROC ${fixed(auroc, 2)}`;
  const where = `on ${number(inputs)} unseen inputs, half inside, half outside beyond ${gap}·ε`;
  const near = line === null ? "" : `; ${fixed(line, 2)} where those outside begin at ε`;
  return [el("p", {}, statement), el("p.hint", {}, `At ε = ${threshold(epsilon)} (${distance}): ${score} ${where}${near}.`)];
}
