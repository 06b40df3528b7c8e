// The model as a grid: layers × components, each cell shaded by what is known of the site at the position read. A model of
// many layers lies on its side: layers from left to right, so that it is no taller than its heads, and numbers on hover.

import { coded, el, say, threshold } from "./dom.js";
import { groupsOf, markOf, groupName } from "./heads.js";
import { completions } from "./sites.js";
import { bitsText, bounded } from "./stats.js";

const KINDS = { bits: "bits at ε", ratio: "good ratio", foretold: "what D foretells" };
const SHARES = { ratio: "of samples inside", foretold: "rank correlation of D with nats" };
const NUMBERED = 8;
const ANY =
  "q0.1, z0, attn1, n0.17, ln_final, …; behind a name @FILE:key[row] for a coordinate along a direction, |sae:FOLDER#17 for a latent";

export class ModelMap {
  /** `onSite(short)` when a cell is chosen, `onKind(kind)` when another measure is, `onName(name)` when a site is typed. */
  constructor({ onSite, onKind, onName }) {
    Object.assign(this, { onSite, cells: new Map(), chips: new Map(), groups: new Map(), told: new Map(), kind: "bits" });
    this.kinds = el(
      "select",
      { "aria-label": "What shades the map", onchange: () => onKind((this.kind = this.kinds.value)) },
      Object.entries(KINDS).map(([value, label]) => el("option", { value }, label)),
    );
    this.note = el("span.note", { role: "status" });
    this.most = el("span");
    this.scale = el("span.scale", { hidden: true }, "0 ", el("i", { "aria-hidden": "true" }), " ", this.most);
    this.where = el("span");
    this.bound = el("span", { hidden: true }, " ", el("b", { "aria-hidden": "true" }), " ≥: hardly any input inside");
    this.readout = el("span.readout", { "aria-hidden": "true" });
    const site = (event) => event.target.closest(".site")?.dataset.site;
    const tell = (event) => say(this.readout, this.told.get(site(event)) ?? "");
    this.grid = el("div.map", {
      role: "grid",
      "aria-label": "Sites of the model",
      onclick: (event) => site(event) && this.onSite(site(event)),
      onkeydown: (event) => this.key(event),
      onpointerover: tell,
      onfocusin: tell,
      onpointerleave: () => say(this.readout, ""),
    });
    this.name = el("input.any", {
      type: "text",
      "aria-label": "Any site, by its name",
      placeholder: "any site, by name",
      title: ANY,
      spellcheck: false,
      autocomplete: "off",
      maxLength: 1000,
      oninput: () => this.complete(),
      onfocus: () => this.complete(),
    });
    this.names = el("datalist", { id: "iv-sites" });
    this.name.setAttribute("list", this.names.id);
    this.off = el("span.chips", { role: "group", "aria-label": "Sites that are not in the map" });
    const typed = (event) => {
      event.preventDefault();
      const name = this.name.value.trim();
      if (name) onName(name);
    };
    this.scroll = el("div.map-scroll", { tabIndex: -1 }, this.grid);
    this.element = el(
      "section.map-part",
      {},
      el("p.caption", {}, this.kinds, " ", this.scale),
      el("p.caption.scale", {}, this.where, this.bound),
      el("p.caption", {}, this.note, this.readout), // of its own: what is said on hover must not move what is pointed at
      this.scroll,
      el("form.off-map", { onsubmit: typed }, this.name, this.names, el("button.quiet", { type: "submit" }, "show"), this.off),
    );
  }

  /** Names that what is typed may become. */
  complete() {
    const found = this.info ? completions(this.info, this.name.value.trim()) : [];
    this.names.replaceChildren(...found.map(({ name, told }) => el("option", { value: name, label: `${name}: ${told}` })));
  }

  /** Show the sites that were named and have no place in the map. */
  further(named) {
    for (const { short, hook } of named)
      if (!this.chips.has(short)) {
        const node = el("button.chip", { type: "button", title: hook, onclick: () => this.onSite(short) }, short);
        this.chips.set(short, node);
        this.off.append(node);
      }
  }

  /** Draw the sites of a study. */
  study(info) {
    this.info = info;
    this.name.value = "";
    this.chips.clear();
    this.off.replaceChildren();
    this.further(info.named ?? []);
    const column = (site) => (site.kind === "head" ? `head ${site.head}` : site.kind);
    const heads = Math.max(0, ...info.sites.map((site) => (site.kind === "head" ? site.head + 1 : 0)));
    const every = ["pre", ...Array.from({ length: heads }, (_, i) => `head ${i}`), "mid", "mlp", "post"];
    const at = new Map(info.sites.map((site) => [`${site.layer} ${column(site)}`, site.short]));
    const layers = [...new Set(info.sites.map((site) => site.layer))].sort((a, b) => a - b);
    const parts = every.filter((name) => layers.some((layer) => at.has(`${layer} ${name}`)));
    this.numbered = layers.length <= NUMBERED;
    this.cells.clear();
    this.groups.clear();
    const groups = groupsOf(info.heads_named);
    for (const { site, group } of info.heads_named)
      this.groups.set(site, [...new Set([...(this.groups.get(site) ?? []), groups.indexOf(group)])]);
    this.named = groups;
    const brief = (name) => String(name).replace("head ", this.numbered ? "a·" : "head ");
    const [down, across] = this.numbered ? [layers, parts] : [parts, layers];
    const short = (a, b) => at.get(this.numbered ? `${a} ${b}` : `${b} ${a}`);
    const head = el(
      "div.map-row",
      { role: "row" },
      el("span.corner-cell", { role: "columnheader" }, "layer"),
      across.map((name) => el("span.col", { role: "columnheader", title: this.numbered ? name : null }, brief(name))),
    );
    const rows = down.map((a) =>
      el(
        "div.map-row",
        { role: "row" },
        el("span.layer", { role: "rowheader" }, brief(a)),
        across.map((b) => this.cell(short(a, b))),
      ),
    );
    this.grid.replaceChildren(head, ...rows);
    this.grid.classList.toggle("dense", !this.numbered);
    this.grid.style.setProperty("--columns", across.length);
    this.grid.style.setProperty("--rows", down.length);
  }

  cell(short) {
    if (!short) return el("span.cell", { role: "gridcell" });
    const node = el("span.cell.site", { role: "gridcell", tabIndex: -1, "data-site": short });
    const marks = this.groups.get(short)?.map((number) => markOf(number, this.named[number]));
    if (marks) {
      const stripes = marks.map((mark, i) => `${mark} ${(100 * i) / marks.length}% ${(100 * (i + 1)) / marks.length}%`);
      node.classList.add("named");
      node.style.setProperty("--marks", `linear-gradient(to right, ${stripes.join(", ")})`);
    }
    this.cells.set(short, node);
    this.tell(short, node, "");
    return node;
  }

  /** What a cell says of itself: its site, what is known of it, and what it is in the circuit. */
  tell(site, node, known) {
    const groups = (this.groups.get(site) ?? []).map((number) => groupName(this.named[number]));
    const told = [known ? `${site}: ${known}` : site, ...groups].join(" · ");
    this.told.set(site, told);
    if (this.numbered) node.title = told;
    node.setAttribute("aria-label", told);
  }

  /** Mark the site that is read, and those pinned at this position. */
  choose(short, pinned = []) {
    for (const [site, node] of this.cells) {
      node.classList.toggle("selected", site === short);
      node.classList.toggle("pinned", pinned.includes(site));
      node.setAttribute("aria-selected", String(site === short));
      node.tabIndex = site === short ? 0 : -1;
    }
    for (const [site, node] of this.chips) {
      node.classList.toggle("selected", site === short);
      node.classList.toggle("pinned", pinned.includes(site));
      node.setAttribute("aria-pressed", String(site === short));
    }
    if (this.cells.has(short) || this.chips.has(short)) this.name.value = "";
    this.bringHere(this.cells.get(short));
  }

  /** Scroll the map, and nothing else, to a cell. */
  bringHere(node) {
    const box = this.scroll;
    if (!node || (box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight)) return;
    const [here, frame] = [node.getBoundingClientRect(), box.getBoundingClientRect()];
    if (here.left < frame.left + 70 || here.right > frame.right) box.scrollLeft += here.left - frame.left - frame.width / 2;
    if (here.top < frame.top || here.bottom > frame.bottom) box.scrollTop += here.top - frame.top - frame.height / 2;
  }

  /**
   * Shade the cells; an answer of the server, or `null` while it is awaited: what is shown is of another place until then, and
   * dimmed. `why` nothing is known.
   */
  shade(answer, why = null) {
    if (answer === null && this.waiting) return;
    this.waiting = answer === null;
    this.grid.classList.toggle("waiting", this.waiting);
    this.grid.setAttribute("aria-busy", String(answer === null));
    if (answer === null) {
      this.say("reading …");
      for (const [site, node] of this.cells) this.tell(site, node, "being read");
      return;
    }
    const values = new Map(answer.cells.map((cell) => [cell.site, cell]));
    const known = answer.cells.filter(({ value }) => value !== null);
    const ratio = answer.kind in SHARES;
    const level = (cell) => (isBound(answer, cell) ? cell.low : cell.value);
    const most = ratio ? 1 : Math.max(1, ...known.map(level));
    this.say(known.length ? "" : (why ?? ({ ratio: "not measured for this decoder", foretold: "not measured: `inversionview calibrate`" }[answer.kind] ?? "no corpus to count in")));
    this.scale.hidden = !known.length;
    this.bound.hidden = !known.some((cell) => isBound(answer, cell));
    say(this.most, ratio ? `1, ${answer.kind === "ratio" ? "share of samples inside" : SHARES.foretold}` : `${most.toFixed(1)} bits`);
    say(this.where, known.length && answer.kind !== "foretold" ? `ε = ${threshold(answer.epsilon)}, ${answer.distance}` : "");
    for (const [site, node] of this.cells) {
      const cell = values.get(site) ?? { value: null };
      const none = cell.value === null;
      node.style.setProperty("--b", none ? 0 : Math.max(0, level(cell) / most).toFixed(3));
      node.classList.toggle("bound", !none && isBound(answer, cell));
      const printed = none ? "" : ratio ? cell.value.toFixed(2) : bitsText(cell);
      if (this.numbered) say(node, printed);
      this.tell(site, node, none ? "" : `${printed} ${SHARES[answer.kind] ?? "bits"}${rangeOf(cell)}`);
    }
  }

  /** Say a sentence beside the map; what it has between backticks is set as code. */
  say(sentence) {
    if (this.note.said === sentence) return;
    this.note.said = sentence;
    this.note.replaceChildren(...coded(sentence));
  }

  /** Nothing is known of this place; nor is what was known of another shown. */
  fail(sentence) {
    this.shade({ kind: this.kind, cells: [] }, sentence);
  }

  key(event) {
    const from = event.target.closest(".site");
    if (!from || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return this.onSite(from.dataset.site);
    }
    const rows = [...this.grid.children].map((row) => [...row.children]);
    let y = rows.findIndex((row) => row.includes(from)),
      x = rows[y].indexOf(from);
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [
      0, 0,
    ];
    if (!dx && !dy) return;
    event.preventDefault();
    do [x, y] = [x + dx, y + dy];
    while (rows[y]?.[x] && !rows[y][x].classList.contains("site"));
    rows[y]?.[x]?.focus();
  }
}

/** Whether a number is a bound of bits. */
const isBound = ({ kind }, cell) => kind === "bits" && bounded(cell);
const rangeOf = ({ low, high }) => (low === null || high === null ? "" : ` [${low.toFixed(2)}, ${high.toFixed(2)}]`);
