// Tokens: shaded by effect, the matched one in parentheses, a head's attention as underlines, each with its distance.

import { distance, el, printed, visible } from "./dom.js";

const FAINT = 0.05;
const FITS = 96;

/** Shade a token: blue where the activation raised its probability, orange where it lowered it. */
function shade(node, effect) {
  const size = Math.min(1, Math.abs(effect ?? 0));
  if (size < FAINT) return;
  node.classList.add(effect > 0 ? "raised" : "lowered");
  node.style.setProperty("--w", size.toFixed(2));
}

/** One token as an element; `index` leads from it to its numbers. */
function token(text, index, at) {
  return el(`bdi.t${index === at ? ".at" : ""}`, { "data-i": index }, printed(text));
}

/** Which tokens fit a line: from the first one, or around the matched one where it would be cut off. */
export function windowed(tokens, at) {
  const widths = tokens.map((text) => Math.max(1, text.length));
  const before = widths.slice(0, at + 1).reduce((a, b) => a + b, 0);
  let first = 0;
  if (before > FITS * 0.4) for (let seen = before; seen > FITS * 0.3 && first < at; first++) seen -= widths[first];
  if (widths.reduce((a, b) => a + b, 0) <= 46) first = 0;
  let [last, wide] = [first, 0];
  while (last < tokens.length && wide < FITS) wide += widths[last++];
  return [first, last];
}

/** A sample on one line. */
export function line(sample) {
  const [first, last] = windowed(sample.tokens, sample.position);
  const parts = sample.tokens.slice(first, last).map((text, i) => {
    const node = token(text, first + i, sample.position);
    shade(node, sample.effect?.[first + i]);
    return node;
  });
  if (first) parts.unshift(el("span.cut", {}, "…"));
  if (last < sample.tokens.length) parts.push(el("span.cut", {}, "…"));
  return parts;
}

/** The whole sample, every token with its own distance below it. */
export function spelled(sample) {
  return sample.tokens.map((text, i) => {
    const node = token(text, i, sample.position);
    shade(node, sample.effect?.[i]);
    return el("span.spelled", {}, node, el("span.own", {}, short(sample.token_distances?.[i])));
  });
}

const short = (value) => (value === null || value === undefined ? "\u00a0" : value.toFixed(2).replace(/^0/, ""));

/** What a token's title says. */
export function told(sample, i) {
  const [own, effect] = [sample.token_distances?.[i], sample.effect?.[i]];
  const parts = [`token ${i}`, own === null || own === undefined ? "no candidate" : `D here ${distance(own)}`];
  if (effect !== null && effect !== undefined) parts.push(`effect ${effect > 0 ? "+" : ""}${effect.toFixed(2)}`);
  return parts.join(" · ");
}

/** The query on one line, with attention as underlines. */
export function queryLine(query) {
  const [first, last] = windowed(query.tokens, query.position);
  const parts = query.tokens.slice(first, last).map((text, i) => {
    const node = token(text, first + i, query.position);
    attend(node, query.attention?.[first + i]);
    return node;
  });
  return [
    first ? el("span.cut", {}, "…") : null,
    ...parts,
    last < query.tokens.length ? el("span.cut", {}, "…") : null,
  ];
}

function attend(node, weight) {
  if (!(weight >= 0.02)) return;
  node.classList.add("attended");
  node.style.setProperty("--a", Math.sqrt(weight).toFixed(2));
  node.title = `attention ${weight.toFixed(2)}`;
}

/** All tokens of the query as large type: buttons where `choose` is given, else text; `marks` are positions read. */
export function queryTokens(place, { choose, marks = [], attention, site } = {}) {
  const names = Object.fromEntries(Object.entries(place.names ?? {}).map(([name, i]) => [i, name]));
  const nodes = place.tokens.map((text, i) => {
    const said = `position ${i}${names[i] ? `, ${names[i]}` : ""}: ${visible(text) || "empty"}`;
    const pressed = String(i === place.position);
    const node = choose
      ? el("button.q", {
          type: "button",
          "data-i": i,
          "aria-pressed": pressed,
          "aria-label": said,
          onclick: () => choose(i),
        })
      : el("span.q", { title: said });
    node.append(el("bdi", {}, printed(text)));
    if (choose) node.tabIndex = i === place.position ? 0 : -1;
    if (choose && i === place.position) node.classList.add("here");
    if (marks.includes(i)) node.classList.add("marked");
    attend(node, attention?.[i]);
    return node;
  });
  return el("div.query", { role: "group", "aria-label": `Query${site ? `, read at ${site}` : ""}` }, nodes);
}

/** The name of the position that is read: a named one, or the token itself. */
export function positionName(reading) {
  const { tokens, position } = reading.preimage.query;
  const named = Object.entries(reading.place?.names ?? {}).find(([, i]) => i === position)?.[0];
  return named ?? visible(tokens[position]);
}
