// How an activation is read: source, distance, position, draws. One quiet line of fields, kept in the state.

import { el } from "./dom.js";

/** Make the fields over `state`; `onChange()` when one was changed. */
export function settings(state, onChange) {
  const fields = {};
  const keep = (name) => () => {
    if (fields[name].validity.badInput) return fields[name].reportValidity();
    state[name] = fields[name].value;
    shown();
    onChange();
  };
  const select = (name, label) =>
    labelled(label, (fields[name] = el("select", { onchange: keep(name) })));
  const input = (name, label, more, hint) =>
    labelled(
      label,
      (fields[name] = el("input", {
        type: "number",
        title: hint,
        ...more,
        onchange: keep(name),
      })),
    );
  const labelled = (label, node) => el("label", {}, `${label} `, node);
  const parts = {
    source: select("source", "source"),
    distance: select("distance", "distance"),
    fixed: select("fixed", "position"),
    count: input("count", "rows", { min: 1, max: 2000, step: 1, placeholder: "100" }, "how many rows at most"),
    temperature: input(
      "temperature",
      "temperature",
      { min: 0, max: 10, step: "any", placeholder: "pool" },
      "empty: a pool of several",
    ),
    noise: input(
      "noise",
      "noise",
      { min: 0, max: 10, step: "any", placeholder: "0" },
      "on the activation, in units of its standard deviation",
    ),
    seconds: input("seconds", "seconds", { min: 1, max: 60, step: "any", placeholder: "5" }, "how long the walk goes"),
    seed: input("seed", "seed", { min: 0, max: 2 ** 31 - 1, step: 1, placeholder: "0" }, "the same seed gives the same rows"),
  };
  const element = el("div.settings", { role: "group", "aria-label": "How it is read" }, Object.values(parts));

  function fill(name, options) {
    fields[name].replaceChildren(...options.map(([value, label]) => el("option", { value }, label)));
  }

  function shown() {
    for (const [name, node] of Object.entries(fields)) {
      const value = state[name] ?? "";
      node.value = node.type === "number" && !Number.isFinite(Number(value)) ? "" : value;
    }
    const drawn = ["decoder", "all"].includes(state.source),
      walked = ["walk", "all"].includes(state.source);
    for (const name of ["temperature", "noise"]) parts[name].classList.toggle("idle", !drawn);
    parts.seconds.classList.toggle("idle", !walked);
    for (const name of ["temperature", "noise"]) fields[name].disabled = !drawn;
    fields.seconds.disabled = !walked;
  }

  return {
    element,
    shown,
    study(info) {
      const sources = info.sources.length > 1 ? [...info.sources, "all"] : info.sources;
      fill("source", [["", "exact first"], ...sources.map((name) => [name, name])]);
      fill(
        "distance",
        info.distances.map((name) => [name, name]),
      );
      fill("fixed", [
        ["", "nearest"],
        ["1", "the same"],
      ]);
      state.distance ||= info.distance;
      shown();
    },
  };
}
