// What the address may say of a reading. What it says wrongly is told, never put right in silence.

import { sitesOf } from "./sites.js";

/** What the address keeps, in its order. */
export const KEPT = [
  "study",
  "text",
  "at",
  "site",
  "source",
  "epsilon",
  "distance",
  "seed",
  "temperature",
  "noise",
  "fixed",
  "count",
  "seconds",
  "pins",
  "theme",
];

/** The state that an address says, and the names in it that mean nothing. */
export function said(hash) {
  const given = new URLSearchParams(hash.slice(1));
  return {
    state: Object.fromEntries(KEPT.filter((name) => given.has(name)).map((name) => [name, given.get(name)])),
    strange: [...new Set(given.keys())].filter((name) => !KEPT.includes(name)),
  };
}

const NUMBER = /^(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const NUMBERS = {
  epsilon: { fits: (x) => x >= 0 && x <= 1e6, must: "a number from 0 to 1,000,000" },
  seed: { fits: (x) => Number.isInteger(x) && x < 2 ** 31, must: "a whole number from 0 to 2,147,483,647" },
  count: { fits: (x) => Number.isInteger(x) && x >= 1 && x <= 2000, must: "a whole number from 1 to 2,000" },
  temperature: { fits: (x) => x > 0 && x <= 100, must: "a number above 0 and at most 100" },
  noise: { fits: (x) => x <= 10, must: "a number from 0 to 10" },
  seconds: { fits: (x) => x > 0 && x <= 60, must: "a number above 0 and at most 60" },
};

/**
 * What is wrong with a state for a study, as `{sentence, stops}`: with what stops, nothing can be read as it is asked. Text and
 * position are left to the server, which knows the model.
 */
export function wrongs(state, info, most) {
  const found = [];
  const check = (name, right, must) => {
    if (state[name] && !right(state[name])) found.push({ sentence: `${name} is '${state[name]}', but must be ${must}.`, stops: true });
  };
  const sites = sitesOf(info).map(({ short }) => short);
  check("site", (x) => sites.includes(x), `a site of ${info.name}`);
  const sources = [...info.sources, ...(info.sources.length > 1 ? ["all"] : [])];
  check("source", (x) => sources.includes(x), sources.join(" or "));
  check("distance", (x) => info.distances.includes(x), info.distances.join(" or "));
  check("fixed", (x) => x === "1", "1, for the same position");
  for (const [name, { fits, must }] of Object.entries(NUMBERS)) check(name, (x) => NUMBER.test(x) && fits(Number(x)), must);
  const wrong = pins(state).filter(([site, at]) => !sites.includes(site) || !at);
  for (const pin of wrong) found.push({ sentence: `pins has '${pin.join("@")}', but must have a site, @ and a position.` });
  if (pins(state).length - wrong.length >= most) found.push({ sentence: `Up to ${most} readings stand side by side: pins has more.` });
  if (state.theme && !["auto", "light", "dark"].includes(state.theme))
    found.push({ sentence: `theme is '${state.theme}', but must be auto, light or dark.` });
  return found;
}

/** Pins of a state as `[site, position]`. */
export const pins = (state) => (state.pins || "").split("|").filter(Boolean).map(placeOf);

/** Site and position of a pin, and the pin of these: what divides them is escaped where it stands in their names. */
export const placeOf = (pin) =>
  pin.split(/@(.*)/s).slice(0, 2).map((part) => part.replace(/%(25|40|7C)/gi, decodeURIComponent));
export const pinOf = (place) => place.map((part) => part.replace(/[%@|]/g, encodeURIComponent)).join("@");
