// Confirm a reading: replace the activation by that of contrasts and see what becomes of the logit difference.

import { el, fixed, percent, printed } from "./dom.js";

/** Make the section; `ask(target)` fetches the answer of the server. */
export function confirmation(ask) {
  const target = el("select", { "aria-label": "Answer token" });
  const run = el("button.button", { type: "button" }, "Patch");
  const result = el("div.result", { role: "status" });
  let asked = 0; // an answer that comes when something else has been asked is dropped
  const reset = () => {
    asked++;
    run.disabled = false;
    result.replaceChildren(el("p.hint", {}, HINT_OF_PATCHES));
  };
  const element = el(
    "details.more-about",
    {},
    el("summary", {}, "Confirm: does the model use it?"),
    el("p", {}, "Answer ", target, " ", run),
    result,
  );
  run.addEventListener("click", async () => {
    const mine = ++asked;
    run.disabled = true;
    result.replaceChildren(el("p.hint", {}, "Patching…"));
    const answer = await ask(target.value).then(patched, refused);
    if (mine !== asked) return;
    run.disabled = false;
    if (answer) result.replaceChildren(...answer);
    else reset();
  });
  reset();
  return {
    element,
    reset,
    set(targets) {
      element.hidden = !targets.length;
      const next = el("option", { value: "" }, "the next");
      target.replaceChildren(next, ...targets.map((name) => el("option", { value: name }, name)));
    },
  };
}

/** What is said of an error; nothing of one that was wanted. */
const refused = (error) => (error.name === "AbortError" ? null : [el("p.failed", {}, error.message)]);
const HINT_OF_PATCHES = "Contrasts of this input are drawn; the activation of each is put in the place of this one.";

function patched({ site, target, answer, pairs, ld_orig, ld_contrast, effect, share, examples }) {
  const known = (value) => fixed(value ?? NaN, 2);
  const head = el(
    "tr",
    {},
    ["contrast", "its answer", "before", "patched"].map((name) => el("th", { scope: "col" }, name)),
  );
  const rows = examples.map((one) =>
    el(
      "tr",
      {},
      el("td.mono", {}, printed(one.contrast)),
      el("td.mono", {}, printed(one.answer)),
      el("td.n", {}, known(one.ld_orig)),
      el("td.n", {}, known(one.ld_patched)),
    ),
  );
  return [
    el(
      "p",
      {},
      `With ${site} of ${pairs} contrasts in its place, the logit difference for `,
      el("b", {}, `${target} = ${answer}`),
      ` goes from ${known(ld_orig)} to ${known(ld_orig - effect.value)}: an effect of ${known(effect.value)} `,
      `[${known(effect.low)}, ${known(effect.high)}]`,
      share === null ? "." : `, ${percent(share)} of the way to the contrasts' ${known(ld_contrast)}.`,
    ),
    el(
      "div.scroll",
      { tabIndex: 0, role: "region", "aria-label": "Contrasts" },
      el("table.examples", {}, el("thead", {}, head), el("tbody", {}, rows)),
    ),
  ];
}
