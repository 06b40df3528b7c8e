// What every module needs of the document: elements whose text is only ever text, numbers as they are printed.

const NS = "http://www.w3.org/2000/svg";

/** Make an element: `tag.class.class`, properties (`on…` listens, `data-`/`aria-`/role set attributes), children. */
export function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  return filled(document.createElement(name), classes, properties, children);
}

/** Make an SVG element in the same way. */
export function svg(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  return filled(document.createElementNS(NS, name), classes, properties, children);
}

function filled(node, classes, properties, children) {
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, one] of Object.entries(value)) node.style.setProperty(name, one);
    else if (key in node && !(node instanceof SVGElement) && !key.includes("-")) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set text only where it changed. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A token as plain text with what cannot be seen made visible, for titles and labels. A space before what is seen is a space,
 * as it is before most words of a language model; any other is a dot.
 */
export const visible = (token) => token.toWellFormed().replace(UNSEEN, sign);

/** The same as nodes, the stand-ins marked, so that a space is told from the dot that shows it. */
export function printed(token) {
  const parts = token.toWellFormed().split(UNSEEN);
  const marks = token.toWellFormed().match(UNSEEN) ?? [];
  const nodes = parts.flatMap((part, i) => [
    part || null,
    i < marks.length ? el("span.m", {}, sign(marks[i])) : null,
  ]);
  return token ? nodes : [el("span.m", {}, "∅")];
}

/** Signs of what is not seen, which labels of tokens have already: of breaks, and of bytes that are part of a character. */
const SIGNS = /[⏎⇥␍]|⟨[0-9a-f ]+⟩/u;
const UNSEEN = new RegExp(
  `(?<= ) | (?= |$|[\\p{Cc}\\p{Zl}\\p{Zp}⏎⇥␍])|[\\p{Cc}\\p{Zl}\\p{Zp}]|(?!\\u200d)\\p{Cf}|${SIGNS.source}`,
  "gu",
);
const SHOWN = { " ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍" };
const sign = (mark) => SHOWN[mark] ?? (SIGNS.test(mark) ? mark : "□");

export const number = (value) => value.toLocaleString("en-US");
/** A number with so many digits after the point, and a true minus. */
export const fixed = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–");
export const distance = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
export const percent = (share) => `${Math.round(100 * share)} %`;
export const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
export const threshold = (value) => (value >= 0.001 || value === 0 ? value.toFixed(3) : value.toExponential(1));

/** A sentence as nodes: what it has between backticks is set as code. */
export const coded = (sentence) => sentence.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

/** Run `work` at most once a frame. */
export function framed(work) {
  let due = 0;
  return () => {
    due ||= requestAnimationFrame(() => {
      due = 0;
      work();
    });
  };
}

/** The element that has the focus, shadow trees included. */
export function focused() {
  let node = document.activeElement;
  while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
  return node;
}

/** A colour of the theme, as it is at a node now. */
export function colour(node, name) {
  const probe = el("span", { hidden: true, style: { color: `var(--${name})` } });
  node.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
