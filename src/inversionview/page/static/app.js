// The live explorer: its state is the page's address; a change asks the server for what it needs, and for no more.

import { KEPT, pinOf, pins, placeOf, said, wrongs } from "./address.js";
import { Compare, MOST } from "./compare.js";
import { completenessOf } from "./complete.js";
import { confirmation } from "./confirm.js";
import { inWords } from "./words.js";
import { el, framed, plural, say } from "./dom.js";
import { NamedHeads } from "./heads.js";
import { listen } from "./keys.js";
import { legend } from "./legend.js";
import { ModelMap } from "./map.js";
import { masthead } from "./mount.js";
import { settings } from "./settings.js";
import { siteOf } from "./sites.js";
import { Api, Lost } from "./sse.js";
import { queryTokens } from "./tokens.js";

/** What a reading is of, besides site and position; ε moves in the page. */
const OF = ["study", "text", "source", "distance", "seed", "temperature", "noise", "fixed", "count", "seconds"];
/** Milliseconds after which ε is taken to rest. */
const SETTLED = 250;

/** Make the explorer in `root`. */
export async function explore(root, { api, whole }) {
  const explorer = new Explorer(root, new Api(api), whole);
  await explorer.begin();
  return explorer;
}

class Explorer {
  constructor(root, api, whole) {
    const { state, strange } = said(whole ? location.hash : "");
    Object.assign(this, { root, api, whole, state, strange, place: null, info: null });
    Object.assign(this, { running: {}, due: { map: true, pins: true } });
    if (this.state.theme) root.dataset.theme = this.state.theme;
    this.compare = new Compare({
      onEpsilon: (epsilon) => {
        this.state.epsilon = String(epsilon);
        this.keep();
        clearTimeout(this.settling);
        this.begun("map");
        this.map.shade(null);
        this.settling = setTimeout(() => this.shade(), SETTLED);
      },
    });
    this.map = new ModelMap({
      onSite: (site) => this.change({ site }),
      onKind: () => this.shade(),
      onName: (name) => this.named(name),
    });
    this.heads = new NamedHeads({ onHead: (site, at) => this.change({ site, at }) });
    this.settings = settings(this.state, () => this.change({}, true));
    this.confirm = confirmation((target) => this.ask("patch", { target, count: 64 }));
    this.words = inWords(() => this.ask("interpret", { epsilon: this.epsilon, distance: this.state.distance }));
    this.complete = completenessOf(() => this.ask("complete", { epsilon: this.epsilon, limit: 20000 }));
    this.keep = framed(() => this.toHash());
    this.build();
  }

  build() {
    this.help = listen(this.whole ? document : this.root, this.keys());
    this.studies = el("select", { "aria-label": "Study", onchange: () => this.opened(this.studies.value) });
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
      (this.lot = el("button.quiet", { type: "button", onclick: () => this.random() }, "a random input")),
    );
    this.sentence = el("span", { role: "status", "aria-live": "polite" });
    this.again = el("button.quiet", { type: "button", hidden: true }, "try again");
    this.said = el("p.said", {}, this.sentence, " ", this.again);
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
        el("div.where", {}, this.map.element, el("div.aside", {}, this.settings.element, this.heads.element)),
        this.compare.element,
        el("div.further", {}, this.words.element, this.confirm.element, this.complete.element),
      ),
      legend(),
      this.help,
    );
    this.main = this.panel();
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
      const asked = await this.api.get("/studies", { wait: false }, undefined, (note) => this.note(note));
      const { studies, failed, loading } = asked;
      this.listed = new Map([...studies.map((info) => [info.id, info]), ...loading.map((id) => [id, null])]);
      this.failed = new Map(failed.map(({ id, detail }) => [id, detail]));
      this.list();
      const wanted = this.state.study || [...this.listed.keys()][0];
      if (this.listed.has(wanted)) {
        await this.open(wanted, Boolean(this.state.study));
        const lacking = failed.map(({ id, detail }) => `${id}: ${detail}`);
        if (lacking.length) this.fail(new Error([this.sentence.textContent, ...lacking].filter(Boolean).join(" ")));
      } else this.lack(wanted);
      for (const id of loading) if (!this.listed.get(id)) this.loaded(id).catch((error) => this.fail(error));
    } catch (error) {
      this.fail(error, () => this.begin());
    }
  }

  /** List the studies, those that are still being loaded as such. */
  list() {
    const label = (id, info) => info?.name ?? `${id} (loading)`;
    const chosen = this.studies.value;
    this.studies.replaceChildren(...[...this.listed].map(([id, info]) => el("option", { value: id }, label(id, info))));
    if (this.listed.has(chosen)) this.studies.value = chosen;
  }

  /** Say that a study is missing, and why; nothing else is shown in its place, and the address stays. */
  lack(id) {
    this.leave();
    this.root.classList.add("nowhere");
    for (const panel of [...this.compare.panels]) this.compare.remove(panel);
    this.main = this.panel();
    this.info = this.place = this.taken = this.opening = null;
    this.studies.value = "";
    const known = [...this.listed.keys()];
    const there = known.length ? `; there ${known.length > 1 ? "are" : "is"} ${listing(known)}.` : ", nor any other: start the server with one.";
    const why = this.failed.get(id);
    this.fail(new Error(why ? `${id} could not be loaded: ${why}` : id ? `There is no study '${id}' here${there}` : NO_STUDY));
  }

  /** Give up all that is on its way: what it brings is not wanted any more. */
  leave() {
    for (const kind of Object.keys(this.running)) this.begun(kind);
    this.forget();
    this.note("");
    say(this.facts, "");
    clearTimeout(this.settling);
  }

  /** The panel of what is read now. */
  panel() {
    const panel = this.compare.add({ actions: { pin: () => this.pin() }, first: true });
    panel.element.classList.add("main-panel");
    return panel;
  }

  /** What can be read of a study, once it is loaded; the page goes on meanwhile. */
  async loaded(id) {
    this.listed.set(id, await this.api.get(`/studies/${encodeURIComponent(id)}`));
    this.list();
    return this.listed.get(id);
  }

  /** Open another study, as a step that one can go back from. */
  async opened(id) {
    this.step = true;
    try {
      await this.open(id);
    } catch (error) {
      if (this.opening !== id) return;
      this.studies.value = this.opening = this.info?.id ?? id;
      if (this.info) {
        this.describe(this.info);
        this.restore(true);
      }
      this.fail(error, () => this.opened(id));
    }
  }

  /** Open a study; `same` keeps what the address says of place and settings. */
  async open(id, same = false) {
    this.studies.value = this.opening = id;
    if (this.info?.id !== id) {
      this.leave();
      for (const panel of this.compare.panels) panel.stale(id, "…");
      this.query.classList.add("stale");
      this.map.shade(null);
    }
    this.root.classList.remove("nowhere");
    if (!this.listed.get(id)) this.note(`Loading ${id}: its model is read and made ready, which may take a while.`);
    const info = this.listed.get(id) ?? (await this.loaded(id));
    if (this.opening !== id) return;
    this.info = info;
    if (!same)
      Object.assign(this.state, { text: "", at: "", site: "", source: "", distance: "", epsilon: "", pins: "" });
    Object.assign(this.state, {
      study: id,
      site: this.state.site || info.default.site,
      text: this.state.text || info.default.text,
    });
    this.state.at ||= info.default.at;
    this.state.epsilon ||= this.usual(this.state.site);
    this.studies.value = id;
    this.describe(info);
    this.map.study(info);
    this.heads.study(info);
    this.settings.study(info);
    this.words.element.hidden = !info.features.length || !info.sources.includes("corpus") || Boolean(info.texts);
    this.confirm.set(info.targets);
    this.complete.set(info.enumerable && info.sources.includes("decoder"));
    this.lot.hidden = !info.sources.includes("corpus");
    this.taken = null;
    for (const panel of this.compare.panels.filter((each) => each !== this.main)) this.compare.remove(panel);
    await this.refresh();
  }

  /** The ε of a site unless the reader moves it. */
  usual(site) {
    return String(siteOf(this.info, site)?.epsilon ?? this.info.epsilon);
  }

  describe(info) {
    const model = info.model.startsWith("/") ? info.model.split("/").at(-1) : info.model;
    const facts = [...(info.name.includes(model) ? [] : [model]), plural(info.layers, "layer", "layers"), plural(info.sites.length, "site", "sites")];
    say(this.facts, facts.map((fact) => ` · ${fact}`).join(""));
  }

  /** Take a change of the state, a step that one can go back from, and ask for what it changes. */
  change(changed, all = false) {
    const text = "text" in changed && changed.text !== this.place?.text;
    const untouched = this.state.epsilon === this.usual(this.state.site);
    Object.assign(this.state, changed);
    if (untouched && !("epsilon" in changed)) this.state.epsilon = this.usual(this.state.site);
    [this.step, this.strange] = [true, []];
    return this.refresh(text || all || "at" in changed, text || all);
  }

  /** Ask for what the state says. What is due is still due where another change comes before it was asked for. */
  async refresh(map = true, pins = true) {
    if (!this.info) return;
    this.due.map ||= map;
    this.due.pins ||= pins;
    this.forget();
    const wanted = { ...this.state };
    this.text.value = wanted.text;
    this.text.size = Math.min(120, Math.max(44, wanted.text.length + 2));
    const signal = this.begun("place");
    this.outdate();
    if (!(await this.meets(wanted, signal))) return;
    const wrong = wrongs(wanted, this.info, MOST);
    if (wrong.some(({ stops }) => stops)) {
      this.restore(false);
      return this.fail(new Error(this.mistakes(wrong)));
    }
    try {
      const place = await this.locate(signal);
      signal.throwIfAborted();
      this.place = place;
      const { at, site } = this.state;
      this.taken = [{ text: this.state.text, at, site }, this.place];
      this.keep();
      this.note("");
      if (this.mistakes(wrong)) this.fail(new Error(this.mistakes(wrong)));
      this.query.classList.remove("stale");
      this.tokens();
      this.bringHere();
      const beside = this.pinned().filter((pin) => pin[1] === at);
      this.map.choose(site, beside.map(([pinned]) => pinned));
      this.heads.choose(site, at);
      const read = this.read(this.main, site, at, "main");
      if (this.due.map) this.shade();
      await read;
      if (this.due.pins) await this.readPins(signal);
    } catch (error) {
      if (this.running.place.signal !== signal) return;
      this.back();
      this.restore(wanted.text === this.state.text);
      if (error.name === "AbortError") return this.note("");
      this.fail(error, () => {
        Object.assign(this.state, wanted);
        this.refresh();
      });
    }
  }

  /** What the address or a field says wrongly, in sentences. */
  mistakes(wrong) {
    const strange = this.strange.map((name) => `The address has '${name}', which means nothing here.`);
    return [...wrong.map(({ sentence }) => sentence), ...strange].join(" ");
  }

  /**
   * From now on what is shown is of the last reading, and marked so: what is asked again, and the input where it is another.
   * What of it was still on its way is given up.
   */
  outdate() {
    const { text, site, at } = this.state;
    this.running.random?.abort();
    this.begun("main");
    this.main.stale(site, at);
    this.main.busy(0, "reading …", () => this.cancel());
    if (text !== this.place?.text) this.query.classList.add("stale");
    if (this.due.map) {
      this.begun("map");
      this.map.shade(null);
    }
    for (const panel of this.due.pins ? this.compare.panels.filter(({ pin }) => pin) : []) {
      this.begun(panel.pin);
      panel.stale(...placeOf(panel.pin));
      panel.busy(0, "reading …", () => this.cancel());
    }
  }

  /** Nothing new is read: what is shown stays dimmed, unless it is what the state says; `same`: so does the field of the input. */
  restore(same) {
    if (same) this.query.classList.remove("stale");
    for (const panel of this.compare.panels) {
      const [site, at] = panel.pin ? placeOf(panel.pin) : [this.state.site, this.state.at];
      if (panel.timer === null && !panel.old) continue;
      if (same && panel.old && panel.key === this.key(site, at)) panel.revive();
      else panel.fail(panel.old ? "Not read." : "");
    }
    if (same && this.shaded?.key === this.shades()) this.map.shade(this.shaded.answer);
    else if (this.map.waiting) this.map.fail("not read");
  }

  /** What a reading is of. */
  key(site, at) {
    return JSON.stringify([site, at, ...OF.map((name) => this.state[name] ?? "")]);
  }

  /** What the map is of. */
  shades() {
    const { study, text, at, epsilon, distance } = this.state;
    return JSON.stringify([study, text, at, epsilon, distance, this.map.kind]);
  }

  /** Read at a site that was typed; where there is none, all stays as it is. */
  async named(name) {
    if (!this.info) return;
    const [info, signal] = [this.info, this.begun("name")];
    try {
      const { short } = await this.learnt(name, signal);
      signal.throwIfAborted();
      if (this.info === info) await this.change({ site: short });
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error, () => this.named(name));
    }
  }

  /** What the server knows of a site, by any style of its name; it is kept with the study. */
  async learnt(name, signal) {
    const info = this.info;
    const found = siteOf(info, name) ?? (await this.api.get(this.path("site"), { site: name }, signal, (note) => this.note(note)));
    if (!siteOf(info, found.short)) (info.named ??= []).push(found);
    return found;
  }

  /**
   * Learn of the server what sites are that are named and not in the map; whether all goes on. A name of another style becomes the
   * short one; what is wrong with a pin is told with what else is.
   */
  async meets(wanted, signal) {
    const info = this.info;
    for (const name of new Set([wanted.site, ...pins(wanted).map(([site]) => site)])) {
      if (!name || siteOf(info, name)) continue;
      try {
        const found = await this.learnt(name, signal);
        if (name !== found.short && this.state.site === name) this.state.site = wanted.site = found.short;
      } catch (error) {
        if (this.info !== info || this.running.place.signal !== signal) return false;
        if (name !== wanted.site) continue;
        this.restore(false);
        this.fail(error.name === "AbortError" ? new Error("Cancelled.") : error);
        return false;
      }
    }
    if (this.info !== info || this.running.place.signal !== signal) return false;
    this.map.further(info.named ?? []);
    return true;
  }

  /** Go back to the last place that there is. */
  back() {
    this.step = false;
    if (!this.taken) return;
    Object.assign(this.state, this.taken[0]);
    this.place = this.taken[1];
    this.tokens();
  }

  /** The place that the state says; a new text that lacks a numbered position is read at the study's own. */
  async locate(signal) {
    const { text, at } = this.state;
    const ask = (where) => this.api.get(this.path("place"), { text, at: where }, signal, (note) => this.note(note));
    try {
      return await ask(at);
    } catch (error) {
      if (!/^#?\d+$/.test(at) || !this.place || text === this.place.text || error.name !== "Error") throw error;
      const place = await ask(this.info.default.at);
      this.state.at = this.info.default.at;
      return place;
    }
  }

  /** What was found out about another place or site is not shown at this one. */
  forget() {
    for (const what of ["interpret", "patch", "complete"]) this.running[what]?.abort();
    this.words.reset();
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
    const asked = { text, at, site, seed, ...more };
    return this.api.get(this.path(what), asked, this.begun(what), (note) => this.note(note));
  }

  tokens() {
    const held = this.query.contains(this.root.getRootNode().activeElement);
    const { attention } = this.main.reading?.preimage.query ?? {};
    const fits =
      this.main.reading?.place.position === this.place.position && this.main.key === this.key(this.state.site, this.state.at);
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

  /** Scroll the query to the position that is read. */
  bringHere() {
    const box = this.query.firstChild,
      here = box.querySelector(".here");
    const top = here.offsetTop - box.offsetTop;
    const seen = top >= box.scrollTop && top + here.offsetHeight <= box.scrollTop + box.clientHeight;
    if (!seen) box.scrollTop = top - box.clientHeight / 2;
  }

  /** Read at a position, marked at once: by its name where it has one. */
  at(index) {
    this.place = { ...this.place, position: index };
    this.tokens();
    const name = Object.entries(this.place.names).find(([, i]) => i === index)?.[0];
    return this.change({ at: name ?? `#${index}` });
  }

  move(step) {
    if (this.place) this.at(Math.min(this.place.tokens.length - 1, Math.max(0, this.place.position + step)));
  }

  other(step) {
    if (!this.info) return;
    const names = this.info.sites.map(({ short }) => short);
    this.change({ site: names[(names.indexOf(this.state.site) + step + names.length) % names.length] });
  }

  async random() {
    if (!this.info || this.lot.hidden) return;
    const [seed, signal] = [Math.floor(1e9 * Math.random()), this.begun("random")];
    try {
      const { text } = await this.api.get(this.path("random"), { seed }, signal, (note) => this.note(note));
      signal.throwIfAborted();
      await this.change({ text });
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error, () => this.random());
    }
  }

  async shade() {
    const { text, at, distance } = this.state;
    const [kind, signal] = [this.map.kind, this.begun("map")];
    const possible = kind === "foretold" || this.info.sources.includes(kind === "ratio" ? "decoder" : "corpus");
    const why = kind === "bits" ? this.info.lacking : null;
    if (why || !possible) return this.map.shade({ kind, cells: [] }, why);
    this.map.shade(null);
    const key = this.shades();
    try {
      const asked = { text, at, kind, epsilon: this.epsilon, distance };
      const answer = await this.api.get(this.path("map"), asked, signal, (note) => this.map.say(note ?? ""));
      signal.throwIfAborted();
      this.shaded = { key, answer };
      this.map.shade(answer);
      this.due.map = false;
    } catch (error) {
      if (this.running.map.signal === signal) this.map.fail(error.name === "AbortError" ? "not read" : error.message);
    }
  }

  /** ε as the server takes it: above 0. */
  get epsilon() {
    return Number(this.state.epsilon) === 0 ? 1e-9 : this.state.epsilon;
  }

  /** Read one activation into a panel, row by row. */
  async read(panel, site, at, kind) {
    const signal = this.begun(kind);
    const { text, source, distance, seed, count, temperature, noise, seconds, fixed } = this.state;
    const asked = { text, at, site, source, epsilon: this.epsilon, distance, seed, count, seconds };
    if (fixed) asked.fixed = at;
    if (["decoder", "all"].includes(source)) Object.assign(asked, { temperature, noise });
    const key = this.key(site, at);
    if (!panel.timer) panel.stale(site, at);
    const busy = (share, note) => panel.busy(share, note ?? "reading …", () => this.running[kind].abort());
    let fresh = null,
      arrived = false;
    const on = {
      busy: (note) => busy(0, note),
      place: (data) => {
        fresh = this.begunReading(data, site, asked, panel.reading);
      },
      rows: ({ samples, values }) => {
        if (fresh) panel.set(fresh, Number(this.state.epsilon));
        [fresh, arrived, panel.key] = [null, true, null];
        panel.grow(samples, values);
      },
      progress: ({ share, note }) => busy(share, note),
      done: (reading) => {
        panel.set(reading, Number(this.state.epsilon));
        panel.busy(null);
        [panel.whole, panel.key] = [true, key];
      },
    };
    busy(0);
    try {
      await this.api.stream(this.path("read"), asked, on, signal);
      if (panel === this.main) this.tokens();
    } catch (error) {
      if (this.running[kind].signal !== signal) return;
      const again = error.name === "AbortError" || error instanceof Lost ? () => this.read(panel, site, at, kind) : null;
      const why = error.name === "AbortError" ? "Cancelled." : error.message;
      panel.fail(arrived ? why.replace(/\.$/, ": what had arrived is shown.") : why, again);
    }
  }

  /** A reading without rows yet. The query's features come at its end, unless another of its text has told them. */
  begunReading(data, site, { epsilon, distance, seed }, before) {
    const { attention, source, ...place } = data;
    const query = {
      text: place.text,
      tokens: place.tokens,
      position: place.position,
      site,
      model: this.info.model,
      attention,
      bos: place.bos,
    };
    const known = before?.study === this.state.study && before?.place.text === place.text ? before.features : null;
    const unknown = { names: this.info.features, query: {}, prior: {}, entropy: {} };
    const features = this.info.features.length ? { ...(known ?? unknown), values: [], inside: null } : null;
    const preimage = {
      query,
      distance,
      epsilon: Number(epsilon),
      seed: Number(seed || 0),
      samples: [],
      candidates: 0,
      source,
    };
    if (this.info.texts && ["corpus", "all"].includes(source)) preimage.corpus = { source: this.info.texts };
    return { version: 1, study: this.state.study, place, site, preimage, features };
  }

  // -- pins ---------------------------------------------------------------------------------------------------------

  /** Pins that can be read, as `[site, position]`. */
  pinned() {
    return pins(this.state)
      .filter(([site, at]) => siteOf(this.info, site) && at)
      .slice(0, MOST - 1);
  }

  pin() {
    if (!this.info) return;
    const { site, at } = this.state;
    const pinned = this.pinned();
    if (pinned.some(([s, a]) => s === site && a === at) || !this.main.reading) return;
    if (pinned.length + 1 >= MOST) return this.note(`Up to ${MOST} readings stand side by side: unpin one first.`);
    this.state.pins = [...pinned, [site, at]].map(pinOf).join("|");
    const panel = this.pinPanel(site, at);
    if (this.main.whole) {
      panel.set(structuredClone(this.main.reading), this.main.epsilon);
      [panel.whole, panel.key] = [true, this.main.key];
    } else this.read(panel, site, at, panel.pin);
    this.map.choose(site, [site, ...pinned.filter((pin) => pin[1] === at).map(([short]) => short)]);
    this.keep();
  }

  pinPanel(site, at) {
    const panel = this.compare.add({ actions: { unpin: () => this.unpin(panel) } });
    panel.pin = pinOf([site, at]);
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

  async readPins(signal) {
    for (const [site, at] of this.pinned()) {
      const panel = this.compare.panels.find(({ pin }) => pin === pinOf([site, at])) ?? this.pinPanel(site, at);
      await this.read(panel, site, at, panel.pin);
      if (signal.aborted) return;
    }
    this.due.pins = false;
  }

  // -- state in the address -----------------------------------------------------------------------------------------

  toHash() {
    const left = this.hash !== undefined && location.hash !== this.hash; // for another address, which follow() is yet to be told
    if (!this.whole || left) return;
    const given = KEPT.filter((name) => this.state[name]).map((name) => [name, this.state[name]]);
    const hash = `#${new URLSearchParams(given)}`;
    const how = this.step && location.hash ? "pushState" : "replaceState";
    if (location.hash !== hash) history[how](null, "", hash);
    [this.hash, this.step] = [location.hash, false];
  }

  /** Follow an address that was typed, pasted or gone back to; the theme stays the reader's. */
  follow() {
    if (location.hash === this.hash || !this.listed) return;
    for (const name of KEPT) delete this.state[name];
    const { state, strange } = said(location.hash);
    const { theme } = this.root.dataset;
    Object.assign(this.state, state, theme === "auto" ? {} : { theme });
    [this.hash, this.strange] = [location.hash, strange];
    const wanted = this.state.study || [...this.listed.keys()][0];
    if (!this.listed.has(wanted)) return this.lack(wanted);
    this.open(wanted, Boolean(this.state.study)).catch((error) => this.fail(error, () => this.follow()));
  }

  /** Say a sentence above the query; with `again`, what tries once more. */
  note(sentence, again = null) {
    say(this.sentence, sentence ?? "");
    this.again.hidden = !again;
    this.again.onclick = again;
    this.said.classList.toggle("failed", false);
  }

  /** Say what went wrong; asking again is offered where it may help. */
  fail(error, again = null) {
    this.note(error.message, error instanceof Lost ? again : null);
    this.said.classList.toggle("failed", true);
  }
}

/** Names as a sentence lists them. */
const listing = (names) => [names.slice(0, -1).join(", "), names.at(-1)].filter(Boolean).join(" and ");
const NO_STUDY = "The server has no study: start it with one.";
