// The model as a grid: layers × components, each cell shaded by what is known of the site at the position read.

import { el, say } from "./dom.js";

const KINDS = { bits: "bits at ε", ratio: "good ratio" };
const NUMBERED = 8;

export class ModelMap {
  /** `onSite(short)` when a cell is chosen, `onKind(kind)` when another measure is. */
  constructor({ onSite, onKind }) {
    Object.assign(this, { onSite, cells: new Map(), kind: "bits" });
    this.kinds = el(
      "select",
      { "aria-label": "What shades the map", onchange: () => onKind((this.kind = this.kinds.value)) },
      Object.entries(KINDS).map(([value, label]) => el("option", { value }, label)),
    );
    this.note = el("span.note", { role: "status" });
    this.grid = el("div.map", {
      role: "grid",
      "aria-label": "Sites of the model",
      onkeydown: (event) => this.key(event),
    });
    this.element = el(
      "section.map-part",
      {},
      el("p.caption", {}, this.kinds, " ", this.note),
      el("div.map-scroll", { tabIndex: -1 }, this.grid),
    );
  }

  /** Draw the sites of a study. */
  study(info) {
    const heads = Math.max(0, ...info.sites.map((site) => (site.kind === "head" ? site.head + 1 : 0)));
    const columns = ["pre", ...Array.from({ length: heads }, (_, i) => `head ${i}`), "mid", "mlp", "post"];
    const column = (site) => (site.kind === "head" ? `head ${site.head}` : site.kind);
    const used = columns.filter((name) => info.sites.some((site) => column(site) === name));
    const layers = [...new Set(info.sites.map((site) => site.layer))].sort((a, b) => a - b);
    this.numbered = layers.length <= NUMBERED;
    this.cells.clear();
    const head = el(
      "div.map-row",
      { role: "row" },
      el("span.corner-cell", { role: "columnheader" }, "layer"),
      used.map((name) => el("span.col", { role: "columnheader", title: name }, name.replace("head ", "a·"))),
    );
    const rows = layers.map((layer) =>
      el(
        "div.map-row",
        { role: "row" },
        el("span.layer", { role: "rowheader" }, String(layer)),
        used.map((name) => this.cell(info.sites.find((site) => site.layer === layer && column(site) === name))),
      ),
    );
    this.grid.replaceChildren(head, ...rows);
    this.grid.classList.toggle("dense", !this.numbered);
    this.grid.style.setProperty("--columns", used.length);
  }

  cell(site) {
    const node = el("span.cell", { role: "gridcell" });
    if (!site) return node;
    node.tabIndex = -1;
    node.dataset.site = site.short;
    node.addEventListener("click", () => this.onSite(site.short));
    node.classList.add("site");
    node.setAttribute("aria-label", site.short);
    this.cells.set(site.short, node);
    return node;
  }

  /** Mark the site that is read, and those pinned at this position. */
  choose(short, pinned = []) {
    for (const [site, node] of this.cells) {
      node.classList.toggle("selected", site === short);
      node.classList.toggle("pinned", pinned.includes(site));
      node.setAttribute("aria-selected", String(site === short));
      node.tabIndex = site === short ? 0 : -1;
    }
  }

  /** Shade the cells; an answer of the server, or `null` while it is awaited. */
  shade(answer) {
    const values = new Map((answer?.cells ?? []).map((cell) => [cell.site, cell]));
    const known = [...values.values()].filter(({ value }) => value !== null);
    const most = answer?.kind === "ratio" ? 1 : Math.max(1, ...known.map(({ value }) => value));
    this.grid.classList.toggle("waiting", answer === null);
    if (answer === null) return;
    say(
      this.note,
      known.length ? "" : answer.kind === "ratio" ? "not measured for this decoder" : "no corpus to count in",
    );
    for (const [site, node] of this.cells) {
      const { value = null, low = null, high = null } = values.get(site) ?? {};
      node.style.setProperty("--b", value === null ? 0 : (value / most).toFixed(3));
      const printed =
        value === null
          ? ""
          : answer.kind === "ratio"
            ? value.toFixed(2)
            : `${high === null ? ">" : ""}${value.toFixed(1)}`;
      say(node, this.numbered ? printed : "");
      const range = low === null || high === null ? "" : ` [${low.toFixed(2)}, ${high.toFixed(2)}]`;
      node.title =
        value === null ? site : `${site}: ${printed} ${answer.kind === "ratio" ? "of samples inside" : "bits"}${range}`;
      node.setAttribute("aria-label", node.title);
    }
  }

  say(sentence) {
    say(this.note, sentence);
  }

  fail(sentence) {
    this.grid.classList.remove("waiting");
    this.say(sentence);
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
