// Tokens: shaded by effect, the matched one in parentheses, a head's attention as underlines, each with its distance.

import { distance, el, printed, visible } from "./dom.js";

const FAINT = 0.05;
const FITS = 96;
const [BRIEF, PARENTHESES, ELLIPSES] = [3, 2, 2];

/**
 * How tokens are named in short: inputs begin with BOS and end with EOS, here `edges`' own; `null` for all others, and where a
 * name is no longer than that.
 */
export function briefly(tokens, edges = tokens) {
  const name = (text, i) => {
    if (text.length <= BRIEF) return null;
    if (i === 0) return text === edges[0] ? "BOS" : null;
    return i === tokens.length - 1 && text === edges.at(-1) ? "EOS" : null;
  };
  return tokens.map(name);
}

/** What `briefly` takes as edges of a query or a place: its tokens, the first of which may be no BOS. */
export const edgesOf = ({ tokens, bos }) => (bos === false ? ["", ...tokens.slice(1)] : tokens);

/** Shade a token: orange where the activation made it likelier, light blue where less likely; `legend.js` says so. */
function shade(node, effect) {
  const size = Math.min(1, Math.abs(effect ?? 0));
  if (size < FAINT) return;
  node.classList.add(effect > 0 ? "raised" : "lowered");
  node.style.setProperty("--w", size.toFixed(2));
}

/** What stands for a token: its text, or its short name. */
const face = (text, brief) => (brief ? el("span.end", {}, brief) : printed(text));

/** One token as an element; `index` leads from it to its numbers. */
function token(text, index, at, brief) {
  if (index !== at) return el("bdi.t", { "data-i": index }, face(text, brief));
  const space = !brief && /^ [^ ]/.test(text) ? " " : ""; // it stands before the parenthesis, as between words
  return el("bdi.t.at", { "data-i": index }, space, el("span.word", {}, face(text.slice(space.length), brief)));
}

/** Which tokens fit a line of so many letters: all, or those around the matched one, more of what comes before it. */
export function windowed(tokens, at, briefs = briefly(tokens), fits = FITS) {
  const widths = tokens.map((text, i) => Math.max(1, (briefs[i] ?? text).length));
  if (widths.reduce((a, b) => a + b, PARENTHESES) <= fits) return [0, tokens.length];
  fits -= PARENTHESES + ELLIPSES;
  let [first, last, wide] = [at, at + 1, widths[at] ?? 0];
  while (first > 0 && wide + widths[first - 1] <= 0.7 * fits) wide += widths[--first];
  while (last < tokens.length && wide + widths[last] <= fits) wide += widths[last++];
  while (first > 0 && wide + widths[first - 1] <= fits) wide += widths[--first];
  return [first, last];
}

/** Those tokens of a sequence that fit a line, each as `make` makes it. */
function fitted({ tokens, position }, edges, fits, make) {
  const briefs = briefly(tokens, edges);
  const [first, last] = windowed(tokens, position, briefs, fits);
  const parts = tokens.slice(first, last).map((text, i) => {
    const node = token(text, first + i, position, briefs[first + i]);
    make(node, first + i);
    return node;
  });
  if (first) parts.unshift(el("span.cut", {}, "…"));
  if (last < tokens.length) parts.push(el("span.cut", {}, "…"));
  return parts;
}

/** A sample on one line. */
export const line = (sample, edges, fits) =>
  fitted(sample, edges, fits, (node, i) => shade(node, sample.effect?.[i]));

/**
 * A sequence as a concordance has it, as two cells: what comes before the matched token, and what begins with it. Each is cut by
 * the page where it does not fit, at its outer end. EOS that follows is left out.
 */
function inContext({ tokens, position }, edges, fits, make) {
  const briefs = briefly(tokens, edges);
  const last = position < tokens.length - 1 && tokens.at(-1) === edges.at(-1) ? tokens.length - 1 : tokens.length;
  const [first, end] = [reach(tokens, position, -1, fits), Math.min(last, reach(tokens, position, 1, fits) + 1)];
  const nodes = (from, to) =>
    tokens.slice(from, to).map((text, k) => {
      const node = token(text, from + k, position, briefs[from + k]);
      make(node, from + k);
      return node;
    });
  const [here] = nodes(position, position + 1);
  const space = here.firstChild.nodeValue === " " ? here.firstChild : null; // all parentheses begin at the same place
  const before = el("span.run", {}, nodes(first, position), space);
  return [el("span.before", {}, before), el("span.since", {}, here, el("span.after", {}, nodes(position + 1, end)))];
}

/** The last token in a direction that is in sight where so many letters are; marks on letters take no room. */
function reach(tokens, from, step, fits) {
  let wide = 0;
  while (wide < fits && tokens[from + step] !== undefined) {
    from += step;
    wide += tokens[from].replace(/\p{M}/gu, "").length;
  }
  return from;
}

/** A sample as a concordance has it. */
export const contextLine = (sample, edges, fits = FITS) =>
  inContext(sample, edges, fits, (node, i) => shade(node, sample.effect?.[i]));

/** The whole sample, every token with its own distance below it. */
export function spelled(sample, edges) {
  const briefs = briefly(sample.tokens, edges);
  return sample.tokens.map((text, i) => {
    const node = token(text, i, sample.position, briefs[i]);
    shade(node, sample.effect?.[i]);
    node.title = exact(text);
    const parts = el("span.spelled", {}, node, el("span.own", {}, short(sample.token_distances?.[i])));
    parts.classList.toggle("behind", i > sample.position);
    return parts;
  });
}

/** A token's label, in quotes; of one that holds part of a character its bytes, too. */
const exact = (text) => [JSON.stringify(text), bytes(text)].filter(Boolean).join(", ");

/** The bytes of a token that is shown by some of them, ⟨e7 8c⟩, as a title says them; empty for any other. */
function bytes(text) {
  const parts = text.split(/⟨((?:[0-9a-f]{2} ?)+)⟩/);
  if (parts.length === 1) return "";
  const plain = (part) => part.replace(/[⏎⇥␍]/g, (c) => ({ "⏎": "\n", "⇥": "\t", "␍": "\r" })[c]);
  const hex = (part) => Array.from(new TextEncoder().encode(plain(part)), (b) => b.toString(16).padStart(2, "0")).join(" ");
  return `bytes ${parts.map((part, i) => (i % 2 ? part : hex(part))).filter(Boolean).join(" ")}`;
}

const short = (value) => (value === null || value === undefined ? "\u00a0" : value.toFixed(2).replace(/^0/, ""));

/** What a token's title says. */
export function told(sample, i) {
  const [own, effect] = [sample.token_distances?.[i], sample.effect?.[i]];
  const parts = [exact(sample.tokens[i]), `token ${i}`, own === null || own === undefined ? "no candidate" : `D here ${distance(own)}`];
  if (effect !== null && effect !== undefined) parts.push(`effect ${effect > 0 ? "+" : ""}${effect.toFixed(2)}`);
  return parts.join(" · ");
}

/** The query on one line, with attention as underlines; `contexts`: as a concordance has it. */
export const queryLine = (query, fits, contexts = false) =>
  (contexts ? inContext : fitted)(query, edgesOf(query), fits, (node, i) => {
    node.title = exact(query.tokens[i]);
    attend(node, query.attention?.[i]);
  });

function attend(node, weight) {
  if (!(weight >= 0.02)) return;
  node.classList.add("attended");
  node.style.setProperty("--a", Math.sqrt(weight).toFixed(2));
  node.title = [node.title, `attention ${weight.toFixed(2)}`].filter(Boolean).join(" · ");
}

/** All tokens of the query as large type: buttons where `choose` is given, else text; `marks` are positions read. */
export function queryTokens(place, { choose, marks = [], attention, site } = {}) {
  if (place.vector) return el("div.query.prose", { role: "group", "aria-label": "Query" }, `the vector ${place.vector}`);
  const names = Object.fromEntries(Object.entries(place.names ?? {}).map(([name, i]) => [i, name]));
  const briefs = briefly(place.tokens, edgesOf(place));
  const nodes = place.tokens.map((text, i) => {
    const shown = [visible(text) || "empty", bytes(text)].filter(Boolean).join(", ");
    const said = `position ${i}${names[i] ? `, ${names[i]}` : ""}: ${shown}`;
    const pressed = String(i === place.position);
    const node = choose
      ? el("button.q", {
          type: "button",
          "data-i": i,
          "aria-pressed": pressed,
          "aria-label": said,
          title: exact(text),
          onclick: () => choose(i),
        })
      : el("span.q", { title: said });
    node.append(el("bdi", {}, face(text, briefs[i])));
    if (choose) node.tabIndex = i === place.position ? 0 : -1;
    if (choose && i === place.position) node.classList.add("here");
    if (marks.includes(i)) node.classList.add("marked");
    attend(node, attention?.[i]);
    return node;
  });
  const prose = place.tokens.some((text) => /^ \S/.test(text)) ? ".prose" : "";
  return el(`div.query${prose}`, { role: "group", "aria-label": `Query${site ? `, read at ${site}` : ""}` }, nodes);
}

/** The name of the position that is read: a named one, or the token itself. */
export function positionName(reading) {
  const { tokens, position } = reading.preimage.query;
  const named = Object.entries(reading.place?.names ?? {}).find(([, i]) => i === position)?.[0];
  return named ?? (position < 0 ? "a vector from outside" : visible(tokens[position]));
}
