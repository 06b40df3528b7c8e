// Readings side by side: up to four panels whose ε moves together where they share the distance.

import { el } from "./dom.js";
import { Panel } from "./reading.js";
import { metricOf } from "./stats.js";

export const MOST = 4;

export class Compare {
  /** `actions(i)`: buttons of panels; `onEpsilon(ε)` is told. */
  constructor({ onEpsilon = () => {}, empty = "" } = {}) {
    Object.assign(this, { panels: [], onEpsilon, active: 0 });
    this.none = el("p.none", {}, empty);
    this.element = el("div.compare", {}, this.none);
  }

  /** Add a panel, `first` before all others. */
  add({ actions = {}, first = false } = {}) {
    const panel = new Panel({ actions, onEpsilon: (epsilon, own) => this.moved(epsilon, own) });
    panel.element.addEventListener("focusin", () => {
      this.active = this.panels.indexOf(panel);
    });
    if (first) this.panels.unshift(panel);
    else this.panels.push(panel);
    this.arrange();
    return panel;
  }

  remove(panel) {
    this.panels = this.panels.filter((each) => each !== panel);
    this.active = Math.min(this.active, Math.max(0, this.panels.length - 1));
    this.arrange();
  }

  arrange() {
    this.none.hidden = this.panels.length > 0;
    this.element.dataset.count = String(this.panels.length);
    const nodes = [this.none, ...this.panels.map((panel) => panel.element)];
    nodes.forEach((node, i) => {
      if (this.element.children[i] !== node) this.element.insertBefore(node, this.element.children[i] ?? null);
    });
    while (this.element.children.length > nodes.length) this.element.lastChild.remove();
  }

  moved(epsilon, own) {
    const metric = metricOf(own.reading.preimage);
    for (const panel of this.panels)
      if (panel !== own && panel.reading && metricOf(panel.reading.preimage) === metric) panel.move(epsilon);
    this.onEpsilon(epsilon);
  }

  /** The panel that keys act on: the one that last had the focus. */
  get current() {
    return this.panels[Math.min(this.active, this.panels.length - 1)];
  }

  /** Give the focus to the next panel. */
  turn(direction) {
    if (!this.panels.length) return;
    this.active = (this.active + direction + this.panels.length) % this.panels.length;
    this.current.rows.grid.focus({ preventScroll: true });
    this.current.element.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  get keys() {
    return [
      { keys: ["["], said: "smaller ε", run: () => this.current?.step(-1) },
      { keys: ["]"], said: "larger ε", run: () => this.current?.step(1) },
      { keys: ["/"], said: "filter rows", run: () => this.current?.filter.focus() },
    ];
  }
}
