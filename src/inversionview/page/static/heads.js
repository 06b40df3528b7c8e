// Heads of a known circuit, group by group: a click reads a head at the position where it does its part.

import { el } from "./dom.js";

export class NamedHeads {
  /** `onHead(site, position)` when one is chosen. */
  constructor({ onHead }) {
    Object.assign(this, { onHead, chips: [] });
    this.element = el("div.heads", { role: "group", "aria-label": "Heads of the circuit", hidden: true });
  }

  /** List the heads of a study. */
  study({ heads_named: heads }) {
    this.chips = [];
    this.element.hidden = !heads.length;
    this.element.replaceChildren(
      ...groupsOf(heads).map((group, number) => el("p", {}, swatch(number, group), " ", groupName(group), " ", this.listed(heads, group))),
    );
  }

  listed(heads, group) {
    const own = heads.filter((head) => head.group === group);
    const positions = [...new Set(own.map(({ position }) => position))];
    return positions.flatMap((position, i) => [
      i ? "; " : null,
      ...own.filter((head) => head.position === position).map((head) => this.chip(head)),
      el("span.at-position", {}, ` at ${position}`),
    ]);
  }

  chip({ site, position, group }) {
    const node = el(
      "button.chip",
      { type: "button", "aria-label": `${site} at ${position}, ${groupName(group)}`, onclick: () => this.onHead(site, position) },
      site.slice(1),
    );
    this.chips.push({ node, site, position });
    return node;
  }

  /** Mark the head that is read. */
  choose(short, at) {
    for (const { node, site, position } of this.chips)
      node.setAttribute("aria-pressed", String(site === short && position === at));
  }
}

/** The groups in the order in which they are named first. */
export const groupsOf = (heads) => [...new Set(heads.map(({ group }) => group))];
/** The colour that marks a group. */
export const markOf = (number, group) => (group === UNKNOWN ? "var(--soft)" : `var(--mark-${number % 7})`);
/** What a group is called. */
export const groupName = (group) => (group === UNKNOWN ? "of no known group" : group);
const swatch = (number, group) => el("i.swatch", { "aria-hidden": "true", style: { background: markOf(number, group) } });
const UNKNOWN = "none";
