// Save a reading: JSON as it came, rows as CSV, and the figure as SVG or PNG, drawn here from what the panel shows.

import { colour, distance, el, svg, threshold, visible } from "./dom.js";
import { bitsOf, shareOf } from "./common.js";
import { insideCount, meaningOf } from "./stats.js";
import { briefly, edgesOf, positionName, windowed } from "./tokens.js";

export const FORMATS = ["SVG", "PNG", "CSV", "JSON"];
const [PAPER, STEP, CHAR, SIZE, LETTERS] = [560, 18, 7.4, 12.3, 62];
/** Letters that come before a token of natural text. */
const BEFORE = 33;
const [MONO, SERIF] = [
  "ui-monospace, Menlo, 'DejaVu Sans Mono', monospace",
  "Palatino, Georgia, 'DejaVu Serif', serif",
];

/** Make the file of a panel and hand it to the reader. */
export async function saved(kind, panel) {
  const { site, position } = panel.reading.preimage.query;
  const name = `reading-${site}-${position}.${kind.toLowerCase()}`;
  if (kind === "JSON") return hand(name, new Blob([JSON.stringify(panel.reading)], { type: "application/json" }));
  if (kind === "CSV") return hand(name, new Blob([csv(panel)], { type: "text/csv" }));
  const figure = drawn(panel);
  const text = new XMLSerializer().serializeToString(figure);
  const blob = new Blob([text], { type: "image/svg+xml" });
  return hand(name, kind === "SVG" ? blob : await pixels(blob, figure));
}

function hand(name, blob) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Rows as CSV, ε being the panel's. */
export function csv({ sorted, reading, epsilon }) {
  const names = reading.features?.names ?? [];
  const head = ["distance", "inside", "position", "count", "source", "text", ...names];
  const rows = sorted.map(({ sample, values }) => [
    sample.distance,
    sample.distance <= epsilon,
    sample.position,
    sample.count,
    sample.source,
    sample.text,
    ...values,
  ]);
  return [head, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
}

/**
 * A cell of CSV. Text that begins, after white space, with a sign by which spreadsheets know a formula and is no number gets an
 * apostrophe before it, by which they know text; what cannot be seen is shown, as `printable.py` has it.
 */
export function cell(value) {
  if (typeof value !== "string") return String(value);
  const risky = /^\s*[=+\-@＝＋－＠]|^[\t\r\n]/u.test(value) && !/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value.trim());
  const plain = value.toWellFormed().replaceAll("\r\n", "\n").replace(HIDDEN, (c) => ({ "\n": "⏎", "\t": "⇥" })[c] ?? "·");
  return risky ? `'${plain}` : plain;
}

const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

function quoted(value) {
  const text = cell(value);
  return /[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

async function pixels(blob, figure, scale = 2) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  await image.decode();
  const canvas = el("canvas", { width: scale * PAPER, height: scale * figure.getAttribute("height") });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** The reading as an SVG of its own: title, common features, a choice of rows, the line at ε. */
function drawn(panel) {
  const { reading, sorted, epsilon } = panel;
  const names = ["ink", "soft", "paper", "line", "blue", "bar", "likelier", "less-likely"];
  const ink = Object.fromEntries(names.map((name) => [name, colour(panel.element, name)]));
  const k = insideCount(sorted, epsilon);
  const parts = [];
  const write = (x, y, text, more = {}) =>
    parts.push(svg("text", { x, y, fill: ink.ink, "font-family": SERIF, "font-size": 13, ...more }, text));
  const { query } = reading.preimage;
  write(0, 20, `${query.site} at ${positionName(reading)}`, { "font-size": 17 });
  write(PAPER, 20, `${panel.told.textContent}`, { "text-anchor": "end", fill: ink.soft });
  parts.push(svg("path", { d: `M0 27H${PAPER}`, stroke: ink.ink }));
  let y = 46;
  const features = reading.features ? panel.commonAt(epsilon).entries.slice(0, 5) : [];
  for (const entry of features) {
    const { name, bits, most, trusted } = entry;
    const faint = { "text-anchor": "end", fill: ink.soft, opacity: trusted ? 1 : 0.6 };
    write(0, y, name);
    parts.push(svg("rect", { x: 110, y: y - 8, width: 18 * (most ?? 0), height: 6, fill: ink.blue, opacity: 0.2 }));
    parts.push(svg("rect", { x: 110, y: y - 8, width: 18 * Math.max(0, bits ?? 0), height: 6, fill: ink.blue }));
    write(PAPER - 170, y, entry.told, faint);
    write(PAPER - 65, y, shareOf(entry), faint);
    write(PAPER, y, bitsOf(entry), faint);
    y += STEP;
  }
  if (sorted.some(({ sample }) => sample.effect)) y = drawnEffects(parts, ink, y + 4);
  const contexts = Boolean(reading.preimage.corpus);
  y = drawnLine(parts, ink, y + 6, query, edgesOf(query), "query", undefined, false, 0, contexts);
  const shown = panel.rows.chosen;
  shown.forEach((i, slot) => {
    if (i >= k && (!slot || shown[slot - 1] < k)) y = rule(parts, ink, y, `ε = ${threshold(epsilon)}, ${meaningOf(reading.preimage, epsilon)}`);
    const { sample, values } = sorted[i];
    y = drawnLine(
      parts,
      ink,
      y,
      sample,
      edgesOf(query),
      distance(sample.distance),
      values[panel.rows.beside],
      i >= k,
      Math.sqrt(sample.distance / panel.most),
      contexts,
    );
  });
  if (shown.every((i) => i < k)) y = rule(parts, ink, y, `ε = ${threshold(epsilon)}, ${meaningOf(reading.preimage, epsilon)}`);
  const high = Math.ceil(y + 4);
  const [x0, wide] = [-16, PAPER + 32];
  return svg(
    "svg",
    {
      xmlns: "http://www.w3.org/2000/svg",
      viewBox: `${x0} -8 ${wide} ${high + 16}`,
      width: PAPER,
      height: Math.round((PAPER * (high + 16)) / wide),
    },
    svg("rect", { x: x0, y: -8, width: wide, height: high + 16, fill: ink.paper }),
    parts,
  );
}

/** A row of natural text as a concordance has it, in three pieces that the matched token's place holds together. */
function drawnContext(parts, ink, y, { tokens, position }, edges, outside, letters) {
  const briefs = briefly(tokens, edges);
  const last = position < tokens.length - 1 && tokens.at(-1) === edges.at(-1) ? -1 : undefined;
  const face = (from, to) => tokens.slice(from, to).map((text, i) => (briefs[from + i] ? `${briefs[from + i]} ` : visible(text)));
  const own = briefs[position] ?? visible(tokens[position]);
  const word = own.replace(/^ (?=.)/s, "");
  const before = clipped([...(face(0, position).join("") + own.slice(0, own.length - word.length))].reverse(), BEFORE).reverse().join("");
  const middle = `(${clipped([...word], letters - BEFORE - 2).join("")})`;
  const after = clipped([...face(position + 1, last).join("")], letters - BEFORE - cells(middle)).join("");
  const x = 90 + CHAR * BEFORE;
  const text = (at, said, more) =>
    parts.push(svg("text", { x: at, y, "font-family": MONO, "font-size": SIZE, "xml:space": "preserve", ...more }, said));
  text(x, before, { fill: outside ? ink.soft : ink.ink, "text-anchor": "end" });
  text(x, middle, { fill: outside ? ink.soft : ink.ink, "font-weight": 600, textLength: CHAR * cells(middle) });
  text(x + CHAR * cells(middle), after, { fill: ink.soft });
}

/** How many letters' room text takes: marks none, letters of the far east two. */
const cells = (text) => [...text].reduce((sum, c) => sum + (/\p{M}/u.test(c) ? 0 : /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\uff60]|\p{Emoji_Presentation}/u.test(c) ? 2 : 1), 0);

/** As many characters as so many letters have room for, with an ellipsis where some are cut off. */
function clipped(characters, room) {
  if (cells(characters.join("")) <= room) return characters;
  let [taken, wide] = [0, 1];
  while (wide + cells(characters[taken]) <= room) wide += cells(characters[taken++]);
  return [...characters.slice(0, taken), "…"];
}

/** One row of tokens, each at its own place, so that shades lie under them in every viewer. */
function drawnLine(parts, ink, y, sample, edges, told, beside, outside = false, share = 0, contexts = false) {
  if (share) parts.push(svg("rect", { x: 30 - 30 * share, y: y - 8, width: 30 * share, height: 7, fill: ink.bar }));
  parts.push(
    svg("text", { x: 76, y, fill: ink.soft, "text-anchor": "end", "font-family": SERIF, "font-size": 12.5 }, told),
  );
  let x = 90;
  const letters = LETTERS - String(beside ?? "").length;
  if (contexts) drawnContext(parts, ink, y, sample, edges, outside, letters);
  const briefs = briefly(sample.tokens, edges);
  const [first, last] = contexts ? [0, 0] : windowed(sample.tokens, sample.position, briefs, letters);
  for (let i = first; i < last && x < PAPER - 60; i++) {
    const shown = briefs[i] ?? visible(sample.tokens[i]);
    const text = i === sample.position ? shown.replace(/^( ?)(.*)$/s, "$1($2)") : shown;
    const wide = CHAR * [...text].length;
    const effect = sample.effect?.[i] ?? 0;
    if (Math.abs(effect) >= 0.05) {
      parts.push(svg("rect", { x, y: y - 12, width: wide, height: 16, ...shadeOf(ink, effect, outside) }));
    }
    parts.push(
      svg(
        "text",
        {
          x,
          y,
          fill: outside ? ink.soft : ink.ink,
          "font-family": MONO,
          "font-size": SIZE,
          textLength: wide,
          lengthAdjust: "spacingAndGlyphs",
        },
        text,
      ),
    );
    x += wide;
  }
  if (beside !== undefined && beside !== null) {
    parts.push(
      svg(
        "text",
        { x: PAPER, y, fill: ink.soft, "text-anchor": "end", "font-family": SERIF, "font-size": 12.5 },
        String(beside),
      ),
    );
  }
  return y + STEP;
}

/** The shade of an effect, as in the page: letters read on it, on light paper and on dark. */
const shadeOf = (ink, effect, outside = false) => ({
  fill: effect > 0 ? ink.likelier : ink["less-likely"],
  opacity: (Math.abs(effect) * (outside ? 0.24 : 0.52)).toFixed(2),
});

/** What the shades of tokens mean, as a bar. */
function drawnEffects(parts, ink, y) {
  const text = (x, said, more) =>
    parts.push(svg("text", { x, y, fill: ink.soft, "font-family": SERIF, "font-size": 12, ...more }, said));
  text(90, "less likely");
  [-1, -0.5, 0, 0.5, 1].forEach((effect, i) => {
    const place = { x: 150 + 16 * i, y: y - 9, width: 16, height: 10 };
    parts.push(svg("rect", { ...place, ...shadeOf(ink, effect) }));
  });
  parts.push(svg("rect", { x: 150, y: y - 9, width: 80, height: 10, fill: "none", stroke: ink.soft, "stroke-width": 0.5 }));
  text(236, "likelier by the activation");
  return y + STEP;
}

function rule(parts, ink, y, label) {
  parts.push(svg("path", { d: `M0 ${y - 9}H${PAPER}`, stroke: ink.line, "stroke-width": 1.6 }));
  parts.push(
    svg(
      "text",
      { x: PAPER, y: y + 2, fill: ink.line, "text-anchor": "end", "font-family": SERIF, "font-size": 11 },
      label,
    ),
  );
  return y + STEP;
}
