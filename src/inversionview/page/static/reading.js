// One panel: what a reading is, what its rows have in common, how distances spread, and the rows with the line at ε.

import { commons } from "./common.js";
import { coded, el, framed, number, percent, say, threshold } from "./dom.js";
import { distances, epsilonField } from "./histogram.js";
import { effects } from "./legend.js";
import { Rows } from "./rows.js";
import { saved, FORMATS } from "./save.js";
import { agreeing, amount, bitsText, bounded, chosen, common, insideCount, meaningOf, metricOf, ranked, searched } from "./stats.js";
import { edgesOf, positionName, queryLine } from "./tokens.js";

export class Panel {
  /** `onEpsilon(ε, panel)` when ε is moved here; `actions`: buttons as `{label: run}`. */
  constructor({ onEpsilon = () => {}, actions = {} } = {}) {
    this.onEpsilon = onEpsilon;
    this.rows = new Rows({
      onEpsilon: (value) => this.move(value, true),
      onFilter: (text) => this.addFilter(text),
      onFit: () => this.ask(),
    });
    this.common = commons((index) => this.pick(index));
    this.histogram = distances((value) => this.move(value, true));
    this.field = epsilonField((value) => this.move(value, true));
    this.repaint = framed(() => this.paint());
    this.parts(actions);
  }

  parts(actions) {
    this.title = el("h2");
    this.told = el("p.bits");
    this.origin = el("p.origin");
    this.notes = el("p.notes", { hidden: true });
    this.share = el("i");
    this.said = el("span", { role: "status", "aria-live": "polite" });
    this.clock = el("span", { "aria-hidden": "true" });
    this.outdated = el("span");
    this.stop = el("button.quiet", { type: "button", hidden: true, onclick: () => this.act() }, "cancel");
    this.status = el("p.status", { hidden: true }, this.said, this.clock, this.outdated, " ", this.stop);
    this.progress = el("div.progress", { "aria-hidden": "true" }, this.share);
    this.query = el("div.row.query-row");
    this.inside = el("output.inside");
    this.metric = el("span.metric");
    this.choice = el("p.choice");
    this.effects = effects();
    this.filter = el("input.filter", {
      type: "search",
      placeholder: "filter",
      "aria-label": "Filter rows by text or by feature=value",
      spellcheck: false,
      oninput: framed(() => this.narrow()),
    });
    this.group = el("select", { "aria-label": "Group rows by", onchange: () => this.narrow() });
    this.side = el("select", {
      "aria-label": "Feature beside each row",
      onchange: () => this.pick(this.side.value === "" ? null : Number(this.side.value)),
    });
    this.tools = el(
      "div.tools",
      {},
      this.filter,
      el("label", {}, "by ", this.group),
      el("label.side", {}, "beside ", this.side),
    );
    const buttons = Object.entries(actions).map(([label, run]) =>
      el("button.quiet", { type: "button", onclick: () => run(this) }, label),
    );
    const formats = FORMATS.map((kind) =>
      el("button.quiet", { type: "button", "aria-label": `Save as ${kind}`, onclick: () => this.save(kind) }, kind),
    );
    this.saves = el("span.save", {}, "save ", formats);
    this.footer = el("footer", {}, this.saves, el("span.acts", {}, buttons));
    this.element = el(
      "article.panel",
      { tabIndex: -1 },
      el("header", {}, this.title, this.told),
      this.origin,
      this.status,
      this.progress,
      (this.halves = el(
        "div.halves",
        {},
        el(
          "div",
          {},
          this.common.element,
          el(
            "div.distances",
            { role: "group", "aria-label": "Distances and ε" },
            el("div.epsilon-line", {}, el("label", {}, "ε = ", this.field.element, this.metric), this.inside),
            this.histogram.element,
          ),
        ),
        el("div", {}, this.tools, this.choice, this.effects.element, this.query, this.rows.element),
      )),
      this.notes,
      this.footer,
    );
  }

  /** Say what will be read here. */
  expect(site, name) {
    this.element.setAttribute("aria-label", `${site} at ${name}`);
    this.title.replaceChildren(el("var", {}, site), " at ", el("span.place", {}, name));
  }

  /**
   * Something else is asked from now on: until the first of its rows come, all that is shown is of the last reading. It is dimmed,
   * cannot be used, and seconds are counted.
   */
  stale(site, name) {
    this.expect(site, name);
    this.whole = false;
    if (this.reading) this.outdate(true);
    this.notes.hidden = true;
    this.count();
  }

  outdate(old) {
    const root = this.element.getRootNode();
    if (old && this.halves.contains(root.activeElement)) this.held = root.activeElement;
    this.old = old;
    this.element.classList.toggle("stale", old);
    say(this.outdated, old ? " The rows below are of the last reading." : "");
    for (const part of [this.halves, this.saves]) part.inert = old;
    if (old) return say(this.told, "");
    if (this.held && root.activeElement === (root.body ?? null)) this.held.focus({ preventScroll: true });
    this.held = null;
  }

  /** Nothing else was read after all: what is shown is current again. */
  revive() {
    this.busy(null);
    this.outdate(false);
    this.whole = true;
    this.expect(this.reading.preimage.query.site, positionName(this.reading));
    this.notes.hidden = !this.notes.textContent;
    this.head();
  }

  /** Count the seconds until `settle()`. */
  count() {
    this.settle();
    const began = performance.now();
    this.timer = setInterval(() => {
      if (!this.element.isConnected) return this.settle();
      say(this.clock, ` ${Math.round((performance.now() - began) / 1000)} s.`);
    }, 1000);
  }

  settle() {
    clearInterval(this.timer);
    this.timer = null;
    say(this.clock, "");
  }

  /** Show a reading; ε is its own unless one is given. */
  set(reading, epsilon = reading.preimage.epsilon) {
    this.reading = reading;
    this.settle();
    this.outdate(false);
    this.element.classList.add("read");
    const { query, source, seed, corpus } = reading.preimage;
    const distance = metricOf(reading.preimage);
    this.expect(query.site, positionName(reading));
    this.element.classList.toggle("contexts", Boolean(corpus));
    say(this.origin, [source, searched(reading.preimage), distance, `seed ${seed}`].filter(Boolean).join(" · "));
    this.origin.title = this.origin.textContent;
    this.ask();
    const told = [reading.features?.inside?.note, ...(reading.preimage.notes ?? [])];
    const notes = [...told, ...(reading.preimage.walk?.notes ?? [])].filter(Boolean);
    this.notes.replaceChildren(...coded(notes.join(" ")));
    this.notes.hidden = !notes.length;
    this.fill(reading, epsilon);
  }

  /** The query, above the rows. */
  ask() {
    const words = queryLine(this.reading.preimage.query, this.rows.fits, Boolean(this.reading.preimage.corpus));
    const parts = [el("span.bar"), el("span.d", {}, "query"), el("span.times"), el("span.x", {}, words)];
    this.query.replaceChildren(...parts, ...(this.rows.mixed ? [el("span.from")] : []), el("span.f"));
  }

  fill(reading, epsilon) {
    const features = reading.features;
    this.sorted = ranked(reading);
    this.tally = features && agreeing(this.sorted, features, features.inside?.source);
    this.most = Math.max(1.5 * reading.preimage.epsilon, ...this.sorted.map(({ sample }) => sample.distance)) || 1;
    this.epsilon = epsilon;
    this.effects.show(reading.preimage.samples);
    this.common.set(features);
    this.histogram.set(this.sorted, this.most);
    this.options(features?.names ?? []);
    const { query, corpus } = reading.preimage;
    const mixed = this.rows.mixed;
    this.rows.set(this.sorted, features?.names ?? [], epsilon, edgesOf(query), Boolean(corpus));
    if (mixed !== this.rows.mixed) this.ask();
    this.element.classList.toggle("repeated", this.rows.repeated);
    say(this.choice, chosen(reading.preimage));
    const best = features && this.sorted.length ? this.commonAt(epsilon).entries[0].index : null;
    if (!this.picked && best !== this.rows.beside) this.beside(best);
    this.element.style.setProperty("--beside", this.rows.grid.style.getPropertyValue("--beside"));
    this.paint();
  }

  options(names) {
    if (this.named === names.join("\u0000")) return;
    this.named = names.join("\u0000");
    this.picked = false;
    const listed = (first) => [
      el("option", { value: "" }, first),
      ...names.map((name, i) => el("option", { value: i }, name)),
    ];
    this.group.replaceChildren(...listed("distance"));
    this.side.replaceChildren(...listed("nothing"));
    for (const select of [this.group, this.side]) select.parentNode.hidden = !names.length;
  }

  /** New rows of a reading that is being made. */
  grow(samples, values) {
    this.reading.preimage.samples.push(...samples);
    this.reading.features?.values.push(...(values ?? []));
    this.fill(this.reading, this.epsilon);
  }

  /** Show a feature beside each row because the reader wants it, not because it tells most. */
  pick(index) {
    this.picked = true;
    this.beside(index);
  }

  beside(index) {
    this.common.pick(index);
    this.side.value = index ?? "";
    this.rows.show(index);
    this.element.style.setProperty("--beside", this.rows.grid.style.getPropertyValue("--beside"));
    this.common.show(this.commonAt(this.epsilon));
  }

  /** What may be said of the features inside an ε. */
  commonAt(epsilon) {
    return common(this.reading, this.sorted, this.tally, insideCount(this.sorted, epsilon), epsilon);
  }

  /** Move ε; `own` where it was moved in this panel. */
  move(epsilon, own = false) {
    this.epsilon = epsilon;
    this.repaint();
    if (own) this.onEpsilon(epsilon, this);
  }

  /** One step of ε: to the next distance that is a few per cent away. */
  step(direction) {
    if (!this.sorted || this.old) return;
    const steps = 0.02 * this.most;
    const share = Math.sqrt(this.epsilon / this.most) + direction * 0.02;
    this.move(Math.max(0, share <= 0 ? 0 : share * share * this.most) || (direction > 0 ? steps * 0.02 : 0), true);
  }

  paint() {
    if (!this.sorted) return;
    const k = insideCount(this.sorted, this.epsilon);
    if (this.reading.features) this.common.show(this.commonAt(this.epsilon));
    this.histogram.move(this.epsilon, k, this.sorted.length);
    this.field.set(this.epsilon);
    say(this.metric, ` (${meaningOf(this.reading.preimage, this.epsilon)})`);
    say(this.inside, amount(this.reading.preimage, this.epsilon, k, this.sorted.length));
    this.rows.move(this.epsilon);
    this.head();
  }

  head() {
    const { bits, epsilon, recall, nats } = this.reading.preimage;
    if (this.old) return;
    if (!bits) return say(this.told, `position ${this.reading.preimage.query.position}`);
    const said = nats ? ` · ${nats.median.toPrecision(2)} nats` : "";
    say(this.told, `${bitsText(bits)} bits${said} at ε = ${threshold(epsilon)} (${meaningOf(this.reading.preimage, epsilon)})`);
    const interval = bits.high === null ? "" : ` [${bits.low.toFixed(2)}, ${bits.high.toFixed(2)}]`;
    const found = recall === undefined ? "" : `; finds ${percent(recall)} of what lies inside`;
    const what = bits.method === "importance" ? "weighed draws" : bits.occurrences === undefined ? "inputs" : "occurrences";
    this.told.title = `${number(bits.hits)} of ${number(bits.inputs)} ${what} inside${interval}${found}`;
  }

  narrow() {
    this.rows.narrow(this.filter.value.trim(), this.group.value === "" ? null : Number(this.group.value));
  }

  addFilter(text) {
    const terms = this.filter.value.split(/\s+/).filter(Boolean);
    this.filter.value = terms.includes(text)
      ? terms.filter((term) => term !== text).join(" ")
      : [...terms, text].join(" ");
    this.narrow();
  }

  /** Progress of a reading that is being made, which `cancel()` ends; `null` when it is done. */
  busy(share, note = "", cancel = null) {
    this.element.classList.toggle("busy", share !== null);
    this.element.setAttribute("aria-busy", String(share !== null));
    this.share.style.setProperty("width", `${100 * (share ?? 0)}%`);
    this.offer("cancel", cancel);
    this.tell(share === null ? "" : note);
  }

  /** Say in one sentence what went wrong; `again()` tries once more. */
  fail(sentence, again = null) {
    this.settle();
    this.busy(null);
    this.offer("try again", again);
    this.tell(sentence, true);
  }

  offer(label, act) {
    say(this.stop, label);
    this.act = act;
    this.stop.hidden = !act;
  }

  /** What is said stands in the place of where the reading is from. */
  tell(sentence, failed = false) {
    say(this.said, sentence);
    this.status.classList.toggle("failed", failed);
    this.status.hidden = !sentence;
    this.origin.hidden = Boolean(sentence);
  }

  save(kind) {
    return saved(kind, this).catch((error) => this.fail(`The ${kind} could not be made: ${error.message}.`));
  }
}
