// The live explorer: its state is the page's address; a change asks the server for what it needs, and for no more.

import { Compare, MOST } from "./compare.js";
import { completenessOf } from "./complete.js";
import { confirmation } from "./confirm.js";
import { el, framed, plural, say } from "./dom.js";
import { listen } from "./keys.js";
import { ModelMap } from "./map.js";
import { legend, masthead } from "./mount.js";
import { settings } from "./settings.js";
import { Api } from "./sse.js";
import { queryTokens } from "./tokens.js";

const KEPT = [
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

/** Make the explorer in `root`. */
export async function explore(root, { api, whole }) {
  const explorer = new Explorer(root, new Api(api), whole);
  await explorer.begin();
  return explorer;
}

class Explorer {
  constructor(root, api, whole) {
    Object.assign(this, { root, api, whole, state: whole ? fromHash() : {}, place: null, info: null, running: {} });
    if (this.state.theme) root.dataset.theme = this.state.theme;
    this.compare = new Compare({
      onEpsilon: (epsilon) => {
        this.state.epsilon = String(epsilon);
        this.keep();
      },
    });
    this.map = new ModelMap({ onSite: (site) => this.change({ site }), onKind: () => this.shade() });
    this.settings = settings(this.state, () => this.change({}, true));
    this.confirm = confirmation((target) => this.ask("patch", { target, count: 64 }));
    this.complete = completenessOf(() => this.ask("complete", { epsilon: this.state.epsilon, limit: 20000 }));
    this.keep = framed(() => this.toHash());
    this.build();
  }

  build() {
    this.help = listen(this.whole ? document : this.root, this.keys());
    this.studies = el("select", { "aria-label": "Study", onchange: () => this.open(this.studies.value) });
    this.facts = el("span");
    this.text = el("input.text", {
      type: "text",
      "aria-label": "Input",
      spellcheck: false,
      autocomplete: "off",
      maxLength: 4000,
    });
    this.form = el(
      "form.input",
      {
        onsubmit: (event) => {
          event.preventDefault();
          this.change({ text: this.text.value });
        },
      },
      this.text,
      el("button.button", { type: "submit" }, "Read"),
      el("button.quiet", { type: "button", onclick: () => this.random() }, "a random input"),
    );
    this.said = el("p.said", { role: "status", "aria-live": "polite" });
    this.query = el("div.query-holder", {}, el("div.query", {}, "\u00a0"));
    this.root.append(
      masthead(this.root, {
        title: "What does this activation encode?",
        sub: [this.studies, " ", this.facts],
        help: this.help,
      }),
      el(
        "main",
        {},
        this.form,
        this.said,
        this.query,
        el("div.where", {}, this.map.element, this.settings.element),
        this.compare.element,
        el("div.further", {}, this.confirm.element, this.complete.element),
      ),
      legend(),
      this.help,
    );
    this.main = this.compare.add({ actions: { pin: () => this.pin() } });
    this.main.element.classList.add("main-panel");
    this.root.addEventListener("theme", ({ detail }) => {
      this.state.theme = detail;
      this.complete.redraw();
      this.keep();
    });
    if (this.whole) window.addEventListener("hashchange", () => this.follow());
  }

  keys() {
    return [
      { keys: ["ArrowLeft", "ArrowRight"], said: "position", run: (key) => this.move(key === "ArrowLeft" ? -1 : 1) },
      { keys: ["ArrowUp", "ArrowDown"], said: "site", run: (key) => this.other(key === "ArrowUp" ? -1 : 1) },
      ...this.compare.keys,
      { keys: ["p"], said: "pin this reading", run: () => this.pin() },
      { keys: ["r"], said: "a random input", run: () => this.random() },
      { keys: ["Escape"], said: "cancel", run: () => this.cancel() },
    ];
  }

  async begin() {
    try {
      const { studies } = await this.api.get("/studies");
      this.listed = studies;
      this.studies.replaceChildren(...studies.map(({ id, name }) => el("option", { value: id }, name)));
      const wanted = studies.find(({ id }) => id === this.state.study) ?? studies[0];
      if (!wanted) return this.fail("The server has no study: start it with one.");
      if (this.state.study && wanted.id !== this.state.study) this.fail(`There is no study ${this.state.study} here.`);
      await this.open(wanted.id, wanted.id === this.state.study);
    } catch (error) {
      this.fail(error.message);
    }
  }

  /** Open a study; `same` keeps what the address says of place and settings. */
  async open(id, same = false) {
    const info = this.listed.find((study) => study.id === id);
    this.info = info;
    if (!same)
      Object.assign(this.state, { text: "", at: "", site: "", source: "", distance: "", epsilon: "", pins: "" });
    Object.assign(this.state, {
      study: id,
      site: this.state.site || info.default.site,
      text: this.state.text || info.default.text,
    });
    this.state.at ||= info.default.at;
    this.state.epsilon ||= String(info.epsilon);
    this.studies.value = id;
    const model = info.model === info.name ? [] : [info.model];
    const facts = [...model, plural(info.layers, "layer", "layers"), plural(info.sites.length, "site", "sites")];
    say(this.facts, facts.map((fact) => ` · ${fact}`).join(""));
    this.map.study(info);
    this.settings.study(info);
    this.confirm.set(info.targets);
    this.complete.set(info.enumerable && info.sources.includes("decoder"));
    for (const panel of this.compare.panels.filter((each) => each !== this.main)) this.compare.remove(panel);
    await this.refresh();
  }

  /** Take a change of the state and ask for what it changes. */
  change(changed, all = false) {
    const text = "text" in changed && changed.text !== this.place?.text;
    Object.assign(this.state, changed);
    return this.refresh(text || all || "at" in changed, text || all);
  }

  async refresh(map = true, pins = true) {
    this.keep();
    this.forget();
    this.text.value = this.state.text;
    const signal = this.begun("place");
    try {
      const place = await this.api.get(this.path("place"), { text: this.state.text, at: this.state.at }, signal);
      this.place = place;
      this.fail("");
      this.tokens();
      this.map.choose(
        this.state.site,
        this.pinned()
          .filter(([, at]) => at === this.state.at)
          .map(([site]) => site),
      );
      const read = this.read(this.main, this.state.site, this.state.at, "main");
      if (map) this.shade();
      await read;
      if (pins) await this.readPins();
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error.message);
    }
  }

  /** What was found out about another place or site is not shown at this one. */
  forget() {
    for (const what of ["patch", "complete"]) this.running[what]?.abort();
    this.confirm.reset();
    this.complete.reset();
  }

  path(what) {
    return `/studies/${encodeURIComponent(this.state.study)}/${what}`;
  }

  /** A signal for work of one kind; work of that kind begun before is cancelled. */
  begun(kind) {
    this.running[kind]?.abort();
    this.running[kind] = new AbortController();
    return this.running[kind].signal;
  }

  cancel() {
    for (const each of Object.values(this.running)) each.abort();
  }

  ask(what, more) {
    const { text, at, site, seed } = this.state;
    return this.api.get(this.path(what), { text, at, site, seed, ...more }, this.begun(what));
  }

  tokens() {
    const held = this.query.contains(this.root.getRootNode().activeElement);
    const { attention } = this.main.reading?.preimage.query ?? {};
    const fits =
      this.main.reading?.place.position === this.place.position && this.main.reading?.site === this.state.site;
    const node = queryTokens(this.place, {
      choose: (i) => this.at(i),
      attention: fits ? attention : null,
      site: this.state.site,
    });
    const top = this.query.firstChild.scrollTop;
    this.query.replaceChildren(node);
    node.scrollTop = top;
    if (held) node.querySelector(".here")?.focus();
  }

  /** Read at a position: by its name where it has one. */
  at(index) {
    const name = Object.entries(this.place.names).find(([, i]) => i === index)?.[0];
    return this.change({ at: name ?? String(index) });
  }

  move(step) {
    if (this.place) this.at(Math.min(this.place.tokens.length - 1, Math.max(0, this.place.position + step)));
  }

  other(step) {
    const names = this.info.sites.map(({ short }) => short);
    this.change({ site: names[(names.indexOf(this.state.site) + step + names.length) % names.length] });
  }

  async random() {
    try {
      const place = await this.api.get(
        this.path("random"),
        { seed: Math.floor(1e9 * Math.random()) },
        this.begun("random"),
      );
      await this.change({ text: place.text });
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error.message);
    }
  }

  async shade() {
    this.map.shade(null);
    const { text, at, epsilon, distance } = this.state;
    try {
      this.map.shade(
        await this.api.get(this.path("map"), { text, at, kind: this.map.kind, epsilon, distance }, this.begun("map")),
      );
    } catch (error) {
      if (error.name !== "AbortError") this.map.fail(error.message);
    }
  }

  /** Read one activation into a panel, row by row. */
  async read(panel, site, at, kind) {
    const signal = this.begun(kind);
    const { text, source, epsilon, distance, seed, count, temperature, noise, seconds, fixed } = this.state;
    const asked = { text, at, site, source, epsilon, distance, seed, count, seconds, fixed: fixed ? at : null };
    if (["decoder", "all"].includes(source)) Object.assign(asked, { temperature, noise });
    if (!panel.reading) panel.expect(site, at);
    panel.busy(0, `${site}: reading…`, () => this.running[kind].abort());
    let fresh = null;
    const on = {
      place: (data) => {
        fresh = this.begunReading(data, site, asked, panel.reading);
      },
      rows: ({ samples, values }) => {
        if (fresh) panel.set(fresh, Number(epsilon));
        fresh = null;
        panel.grow(samples, values);
      },
      progress: ({ share, note }) => panel.busy(share, note, () => this.running[kind].abort()),
      done: (reading) => {
        panel.set(reading, Number(this.state.epsilon));
        panel.busy(null);
      },
    };
    try {
      await this.api.stream(this.path("read"), asked, on, signal);
      if (panel === this.main) this.tokens();
    } catch (error) {
      if (this.running[kind].signal === signal)
        panel.fail(error.name === "AbortError" ? "Cancelled: what had arrived is shown." : error.message);
    }
  }

  /** A reading without rows yet. The query's features come at its end, unless another of its text has told them. */
  begunReading(data, site, { source, epsilon, distance, seed }, before) {
    const { attention, ...place } = data;
    const query = {
      text: place.text,
      tokens: place.tokens,
      position: place.position,
      site,
      model: this.info.model,
      attention,
    };
    const known = before?.study === this.state.study && before.place.text === place.text ? before.features : null;
    const unknown = { names: this.info.features, query: {}, prior: {}, entropy: {} };
    const features = this.info.features.length ? { ...(known ?? unknown), values: [] } : null;
    const preimage = {
      query,
      distance,
      epsilon: Number(epsilon),
      seed: Number(seed || 0),
      samples: [],
      candidates: 0,
      source,
    };
    return { version: 1, study: this.state.study, place, site, preimage, features };
  }

  // -- pins ---------------------------------------------------------------------------------------------------------

  pinned() {
    return (this.state.pins || "")
      .split("|")
      .filter(Boolean)
      .map((pin) => pin.split(/@(.*)/s).slice(0, 2));
  }

  pin() {
    const { site, at } = this.state;
    const pins = this.pinned();
    if (pins.some(([s, a]) => s === site && a === at) || !this.main.reading) return;
    if (pins.length + 1 >= MOST) return this.fail(`Up to ${MOST} readings stand side by side: unpin one first.`);
    this.state.pins = [...pins, [site, at]].map((pin) => pin.join("@")).join("|");
    this.pinPanel(site, at).set(structuredClone(this.main.reading), this.main.epsilon);
    this.map.choose(site, [site]);
    this.keep();
  }

  pinPanel(site, at) {
    const panel = this.compare.add({ actions: { unpin: () => this.unpin(panel) } });
    panel.pin = `${site}@${at}`;
    return panel;
  }

  unpin(panel) {
    this.running[panel.pin]?.abort();
    this.compare.remove(panel);
    this.state.pins = this.compare.panels
      .map(({ pin }) => pin)
      .filter(Boolean)
      .join("|");
    this.keep();
  }

  async readPins() {
    for (const [site, at] of this.pinned()) {
      const panel = this.compare.panels.find(({ pin }) => pin === `${site}@${at}`) ?? this.pinPanel(site, at);
      await this.read(panel, site, at, panel.pin);
    }
  }

  // -- state in the address -----------------------------------------------------------------------------------------

  toHash() {
    if (!this.whole) return;
    const given = KEPT.filter((name) => this.state[name]).map((name) => [name, this.state[name]]);
    this.hash = `#${new URLSearchParams(given)}`;
    if (location.hash !== this.hash) history.replaceState(null, "", this.hash);
  }

  /** Follow an address that was typed or pasted. */
  follow() {
    if (location.hash === this.hash || !this.listed) return;
    for (const name of KEPT) delete this.state[name];
    Object.assign(this.state, fromHash());
    const known = this.listed.some(({ id }) => id === this.state.study);
    this.open(known ? this.state.study : this.listed[0].id, known);
  }

  fail(sentence) {
    say(this.said, sentence);
  }
}

function fromHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(KEPT.filter((name) => given.has(name)).map((name) => [name, given.get(name)]));
}
