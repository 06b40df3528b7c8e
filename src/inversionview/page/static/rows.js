// The rows: sorted by distance and never made twice. Only those in sight are in the document; moving ε moves the line,
// the split and the numbers. A choice of rows at first; all of them in a list that scrolls, the line always in sight.

import { distance, el, framed, number, plural, say, threshold } from "./dom.js";
import { choice, conditions, grouped, holds, insideCount } from "./stats.js";
import { contextLine, line, spelled, told } from "./tokens.js";

export const ROW = 23;
/** Pixels that a letter of a row takes, at most. */
const LETTER = 7.9;
const [CHOSEN, MARGIN, GAP] = [18, 6, 20];

export class Rows {
  /** `onEpsilon(ε)` when the line is dragged, `onFilter(text)` when a value is clicked, `onFit()` when rows fit otherwise. */
  constructor({ onEpsilon, onFilter, onFit }) {
    Object.assign(this, {
      rows: [],
      made: new Map(),
      all: false,
      filter: "",
      group: null,
      beside: null,
      epsilon: 0,
      largest: 1,
    });
    Object.assign(this, { onEpsilon, onFilter, onFit, edges: [], current: -1, shown: [], names: [], top: 0, high: CHOSEN * ROW + GAP });
    this.label = el("span.line-label");
    this.line = el(
      "div.line",
      { hidden: true, title: "Drag to move ε, click to go to it", "aria-hidden": "true" },
      this.label,
    );
    this.spacer = el("div.spacer");
    this.body = el("div.body", {}, this.spacer, this.line);
    this.grid = el(
      "div.rows",
      {
        role: "grid",
        tabIndex: 0,
        "aria-label": "Rows by distance",
        onscroll: framed(() => {
          this.top = this.grid.scrollTop;
          this.draw();
        }),
        onpointerover: (event) => this.explain(event),
        onpointerleave: () => this.peeked && this.spell(null),
        onclick: (event) => this.click(event),
        onkeydown: (event) => this.key(event),
        onfocus: () => this.select(Math.max(0, this.current), false),
      },
      this.body,
    );
    this.empty = el("p.empty", { hidden: true });
    this.count = el("span.count");
    this.toggle = el("button.quiet", {
      type: "button",
      onclick: () => {
        this.all = !this.all;
        this.grid.scrollTop = this.top = 0;
        this.layout();
      },
    });
    this.detail = el("div.detail", { tabIndex: -1 });
    this.element = el(
      "div.rows-part",
      {},
      this.grid,
      this.empty,
      el("p.under", {}, this.count, " ", this.toggle),
      this.detail,
    );
    this.drag();
    this.spell(null);
    new ResizeObserver(framed(() => this.fit())).observe(this.grid);
  }

  /**
   * Take rows, sorted by distance; those seen before keep their elements. A choice of them is made at ε, once. `edges`: tokens
   * that begin and end as inputs do. `contexts`: they are occurrences in natural text, the matched tokens one below the other.
   */
  set(rows, names, epsilon, edges, contexts = false) {
    const other = this.contexts !== contexts;
    Object.assign(this, { edges, contexts });
    if (other) this.choose(null);
    this.epsilon = this.anchor = epsilon;
    const known = this.made;
    this.made = new Map();
    for (const { sample } of rows) if (known.has(sample)) this.made.set(sample, known.get(sample));
    Object.assign(this, { rows, names, largest: Math.max(1e-9, ...rows.map(({ sample }) => sample.distance)) });
    this.repeated = rows.some(({ sample }) => sample.count > 1);
    const several = new Set(rows.map(({ sample }) => sample.source)).size > 1;
    const tried = rows.some(({ sample }) => sample.nats !== undefined);
    this.mixed = several || tried;
    this.said = ({ source, nats }) => [several && source, nats !== undefined && `${nats.toFixed(2)} nats`].filter(Boolean).join(" · ");
    this.widest = this.measure();
    this.narrow();
  }

  measure() {
    if (this.beside === null) return 0;
    return Math.min(
      8,
      Math.max(2, ...this.rows.slice(0, 300).map(({ values }) => String(values[this.beside] ?? "").length)),
    );
  }

  /** Show a feature beside each row. */
  show(feature) {
    this.beside = feature;
    this.widest = this.measure();
    this.made.clear();
    this.layout();
  }

  /** Filter by text and values, group by a feature. */
  narrow(filter = this.filter, group = this.group) {
    Object.assign(this, { filter, group });
    const wanted = conditions(filter, this.names);
    this.kept = this.rows.map((_, i) => i).filter((i) => !wanted.length || holds(this.rows[i], wanted));
    this.keptRows = this.kept.map((i) => this.rows[i]);
    this.groups = group === null ? null : grouped(this.kept, this.rows, group);
    const chosen = choice(this.kept.length, insideCount(this.keptRows, this.anchor), CHOSEN);
    this.chosen = this.kept.length <= CHOSEN ? this.kept : chosen.map((i) => this.kept[i]);
    this.layout();
  }

  /** Move ε. */
  move(epsilon) {
    this.epsilon = epsilon;
    this.split();
  }

  /** What is shown in which order. */
  layout() {
    if (!this.kept) return;
    const total = this.kept.length;
    this.slots = this.groups
      ? this.groups.flatMap((group) => [group, ...group.members])
      : this.all
        ? this.kept
        : this.chosen;
    const tall = this.slots.length * ROW + (this.groups ? 0 : GAP);
    this.body.style.height = `${tall}px`;
    this.grid.style.setProperty("--beside", this.beside === null ? "0ch" : `${this.widest + 0.5}ch`);
    this.grid.setAttribute("aria-rowcount", String(this.slots.length));
    this.empty.hidden = total > 0;
    say(this.empty, this.rows.length ? `No row matches “${this.filter}”.` : "No rows yet.");
    this.toggle.hidden = Boolean(this.groups) || total <= CHOSEN;
    say(this.toggle, this.all ? `show ${CHOSEN}` : `a choice of ${CHOSEN}: show all ${number(total)}`);
    this.split();
    this.fit();
  }

  /** See how many letters a row has room for; rows are made again where that changed. */
  fit() {
    const room = this.body.querySelector(".x")?.clientWidth;
    const bar = this.grid.offsetWidth - this.grid.clientWidth; // the query above, which does not scroll, is as wide as rows
    this.element.parentNode?.style.setProperty("--scrollbar", `${bar}px`);
    const fits = room ? Math.max(24, Math.floor(room / LETTER)) : this.fits;
    if (fits === this.fits) return;
    this.fits = fits;
    this.made.clear();
    this.draw();
    this.onFit?.();
  }

  /** Where the line is, and what it divides; then draw. */
  split() {
    if (!this.kept) return;
    const total = this.kept.length,
      inside = insideCount(this.keptRows, this.epsilon);
    const within = (i) => this.rows[i].sample.distance <= this.epsilon;
    this.cut = this.groups ? Infinity : this.all ? inside : this.chosen.filter(within).length;
    this.line.hidden = Boolean(this.groups) || !total;
    this.spacer.style.height = `${Math.min(this.cut, this.slots.length) * ROW}px`;
    say(this.label, `ε = ${threshold(this.epsilon)}`);
    const matching = total < this.rows.length ? `, of ${number(this.rows.length)}` : "";
    say(
      this.count,
      `${number(inside)} inside, ${number(total - inside)} outside${matching}${this.toggle.hidden ? "" : ";"}`,
    );
    this.draw();
  }

  /** Put the rows in sight into the document, each where it belongs. */
  draw() {
    const { top, high } = this; // kept, for to ask the document would make it lay out again
    const first = Math.max(0, Math.floor((top - GAP) / ROW) - MARGIN);
    const last = Math.min(this.slots.length, Math.ceil((top + high) / ROW) + MARGIN);
    const now = new Map();
    for (let slot = first; slot < last; slot++) {
      const item = this.slots[slot];
      const node = typeof item === "number" ? this.row(item) : this.heading(item);
      const outside = typeof item === "number" && this.rows[item].sample.distance > this.epsilon;
      const shift = slot * ROW + (slot >= this.cut ? GAP : 0);
      if (node.at !== shift) node.style.transform = `translateY(${(node.at = shift)}px)`;
      if (node.out !== outside) node.classList.toggle("out", (node.out = outside));
      if (node.nth !== slot) node.setAttribute("aria-rowindex", String((node.nth = slot) + 1));
      now.set(node, slot);
    }
    for (const node of this.shown) if (!now.has(node)) node.remove();
    const fresh = [...now.keys()].filter((node) => !node.isConnected || node.parentNode !== this.body);
    if (fresh.length) this.body.append(...fresh);
    this.shown = [...now.keys()];
  }

  row(i) {
    const { sample, values } = this.rows[i];
    let node = this.made.get(sample);
    if (!node) this.made.set(sample, (node = this.make(sample, values)));
    node.index = i;
    return node;
  }

  make(sample, values) {
    const share = Math.sqrt(sample.distance / this.largest);
    const cell = (tag, ...inner) => el(tag, { role: "gridcell" }, ...inner);
    const bar = cell("span.bar", el("i", { style: { width: `${(100 * share).toFixed(1)}%` } }));
    bar.setAttribute("aria-hidden", "true");
    bar.removeAttribute("role");
    return el(
      "div.row",
      { role: "row", id: `iv-row-${++Rows.made}` },
      bar,
      cell("span.d", distance(sample.distance)),
      cell("span.times", sample.count > 1 ? `${number(sample.count)}×` : ""),
      cell("span.x", (this.contexts ? contextLine : line)(sample, this.edges, this.fits)),
      this.mixed ? cell("span.from", this.said(sample)) : null,
      this.beside === null ? null : cell("span.f", String(values[this.beside] ?? "–")),
    );
  }

  heading(group) {
    const name = this.names[this.group];
    group.node ??= el("div.row.heading", { role: "row" }, el("span.head", { role: "gridcell" }));
    const inside = group.members.reduce((sum, i) => sum + (this.rows[i].sample.distance <= this.epsilon), 0);
    say(
      group.node.firstChild,
      `${name} = ${group.value} · ${number(inside)} of ${plural(group.members.length, "row", "rows")} inside`,
    );
    return group.node;
  }

  explain(event) {
    const node = event.target.closest?.(".t"),
      row = event.target.closest?.(".row");
    if (row?.index === undefined) return;
    if (node && !node.title) node.title = told(this.rows[row.index].sample, Number(node.dataset.i));
    if (this.contexts && event.pointerType === "mouse") this.spell(this.rows[row.index].sample, true);
  }

  /** Spell a row out below the list, all of its text; with `null` the one that was chosen. `peeked`: while it is pointed at. */
  spell(sample, peeked = false) {
    this.peeked = peeked;
    const shown = sample ?? this.spelt ?? null;
    if (!peeked) this.spelt = shown;
    if (this.detail.of === shown && this.detail.firstChild) return;
    this.detail.of = shown;
    if (!shown) return this.detail.replaceChildren(el("p.hint", {}, this.contexts ? HINT_OF_TEXT : HINT));
    this.detail.replaceChildren(el("p.spell", {}, spelled(shown, this.edges)));
    this.detail.scrollTop = 0;
    if (!this.contexts) return;
    const [at, box] = [this.detail.querySelector(".at"), this.detail].map((node) => node.getBoundingClientRect());
    if (at.bottom > box.bottom) this.detail.scrollTop = at.top - box.top - box.height / 2;
  }

  /** Mark a row as the one that is spelled out, or none. */
  choose(node) {
    for (const each of this.shown) each.classList.toggle("chosen", each === node);
    if (node) return this.grid.setAttribute("aria-activedescendant", node.id);
    this.grid.removeAttribute("aria-activedescendant");
    [this.current, this.spelt, this.detail.of] = [-1, null, undefined];
    this.spell(null);
  }

  click(event) {
    if (event.target.closest(".line")) return this.grid.scrollTo({ top: this.cut * ROW - this.high / 2 });
    const row = event.target.closest(".row");
    if (row?.index === undefined) return;
    if (event.target.closest(".f"))
      this.onFilter(`${this.names[this.beside]}=${this.rows[row.index].values[this.beside]}`);
    else this.select(row.nth, false);
  }

  /** Spell out a row below the list. */
  select(slot, scroll = true) {
    slot = Math.min(this.slots.length - 1, Math.max(0, slot));
    if (typeof this.slots[slot] !== "number") slot = Math.min(this.slots.length - 1, slot + 1);
    if (slot < 0) return;
    this.current = slot;
    if (scroll) {
      const top = slot * ROW + (slot >= this.cut ? GAP : 0);
      if (top < this.top + ROW) this.grid.scrollTop = top - ROW;
      else if (top > this.top + this.high - 3 * ROW) this.grid.scrollTop = top - this.high + 3 * ROW;
      this.top = this.grid.scrollTop;
      this.draw();
    }
    const chosen = this.shown.find((node) => node.nth === slot && node.index !== undefined);
    if (!chosen) return;
    this.choose(chosen);
    this.spell(this.rows[chosen.index].sample);
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: CHOSEN - 2, PageUp: 2 - CHOSEN, Home: -1e9, End: 1e9 }[
      event.key
    ];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.select(this.current + step);
  }

  /** Let the line itself be dragged through the rows: ε falls between the two it then divides. */
  drag() {
    const move = (event) => {
      const y = event.clientY - this.body.getBoundingClientRect().top;
      const k = Math.min(this.kept.length, Math.max(0, Math.round(y / ROW)));
      const slots = this.slots,
        at = (i) => this.rows[slots[i]].sample.distance;
      const [inner, outer] = [
        k ? at(Math.min(k, slots.length) - 1) : 0,
        k < slots.length ? at(k) : this.largest * 1.02,
      ];
      this.onEpsilon((inner + outer) / 2);
    };
    this.line.addEventListener("pointerdown", (event) => {
      this.line.setPointerCapture(event.pointerId);
      this.line.addEventListener("pointermove", move);
      event.preventDefault();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.line.addEventListener(end, () => this.line.removeEventListener("pointermove", move));
    }
  }
}

Rows.made = 0;
const HINT = "Choose a row to read all of it, every token with its own distance.";
const HINT_OF_TEXT = "Choose a row, or point at it, to read its whole window, every token up to there with its own distance.";
