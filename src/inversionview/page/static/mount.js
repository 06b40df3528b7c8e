// The one way in, for server, exported page and widget: shows readings, or the live explorer where there is an API.

import { Compare } from "./compare.js";
import { el, number, visible } from "./dom.js";
import { listen } from "./keys.js";
import { legend } from "./legend.js";
import { metricOf } from "./stats.js";
import { queryTokens } from "./tokens.js";

const THEMES = ["auto", "light", "dark"];

/**
 * Show readings in `element` (in the document or a shadow tree that holds explorer.css).
 * With `api`, the address of a server, the live explorer; `whole`: the page is nothing else, so keys work everywhere.
 * `note`: what there is to say of the readings; `theme`: light or dark, in place of what the system prefers.
 */
export async function mount(element, { readings = [], api = null, whole = false, note = "", theme = null } = {}) {
  const root = el("div.iv", { lang: "en", "data-theme": theme });
  if (whole) root.classList.add("iv-page");
  element.append(root);
  if (api !== null) return (await import("./app.js")).explore(root, { api, whole });
  return shown(root, readings, whole, note);
}

/** Readings alone, as exported: nothing is asked of a server. */
function shown(root, readings, whole, note) {
  const compare = new Compare({ empty: "There is no reading here." });
  const texts = new Set(readings.map(({ preimage }) => preimage.query.text));
  const help = listen(whole ? document : root, [
    { keys: ["ArrowLeft"], said: "previous reading", run: () => compare.turn(-1) },
    { keys: ["ArrowRight"], said: "next reading", run: () => compare.turn(1) },
    ...compare.keys,
  ]);
  const marks = readings.map(({ preimage }) => preimage.query.position);
  root.append(
    masthead(root, { title: "What does each activation encode?", sub: about(readings, note), help }),
    el(
      "main",
      {},
      texts.size === 1 ? queryTokens({ ...readings[0].place, position: -1 }, { marks }) : null,
      compare.element,
    ),
    legend(),
    help,
  );
  for (const reading of readings) compare.add().set(reading);
  return { root, compare };
}

/** What all readings share, in one line. */
function about(readings, note) {
  const of = (pick) => [...new Set(readings.map(pick))];
  const rows = readings.reduce((sum, { preimage }) => sum + preimage.samples.length, 0);
  return [
    of(({ study, preimage }) => study ?? visible(preimage.query.model)).join(", "),
    `${of(({ preimage }) => metricOf(preimage)).join(" and ")} distance`,
    `${number(rows)} rows, every one measured in the model`,
    note,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** The head of the page: title, theme, help. */
export function masthead(root, { title, sub, help, extra = [] }) {
  if (root.dataset.theme && !THEMES.includes(root.dataset.theme)) delete root.dataset.theme;
  const theme = el("button.quiet", { type: "button", onclick: () => themed(root, theme, 1) });
  themed(root, theme, 0);
  return el(
    "header.masthead",
    {},
    el("div", {}, el("h1", {}, title), el("p.sub", {}, sub)),
    el(
      "div.corner",
      {},
      extra,
      theme,
      el("button.quiet", { type: "button", "aria-label": "Keys", onclick: () => help.showModal() }, "keys ?"),
    ),
  );
}

/** Go to the next theme. */
export function themed(root, button, steps) {
  const now = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + steps) % THEMES.length];
  root.dataset.theme = now;
  button.textContent = `theme: ${now}`;
  root.dispatchEvent(new CustomEvent("theme", { detail: now }));
}
