// The distances of all rows on a √D axis, with the one red line at ε: a native slider drawn as that line.

import { el, number, svg, threshold } from "./dom.js";
import { histogram, place, unplace } from "./stats.js";

const [AXIS, TALLEST, BINS, NOTCHES] = [400, 44, 64, 2000];
const TICKS = [0, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];

/** Make the figure; `set(rows, most)` draws it, `move(epsilon, inside)` moves the line, `onMove(epsilon)` is told. */
export function distances(onMove) {
  const pale = svg("path.pale"),
    dark = svg("path.dark");
  const clip = svg("svg", { width: 0, height: TALLEST }, dark);
  const bars = svg(
    "svg.bars",
    { viewBox: `0 0 ${AXIS} ${TALLEST}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    pale,
    clip,
  );
  const ticks = el("div.ticks", { "aria-hidden": "true" });
  const slider = el("input.slider", {
    type: "range",
    min: 0,
    max: NOTCHES,
    step: 1,
    "aria-label": "ε, the threshold on distance",
  });
  const element = el("div.histogram", {}, el("div.plot", {}, bars, slider), ticks);
  let most = 1;
  slider.addEventListener("input", () => onMove(unplace(slider.value / NOTCHES, most)));
  return {
    element,
    slider,
    set(rows, largest) {
      most = largest;
      const counts = histogram(rows, most, BINS);
      const top = Math.max(1, ...counts);
      const step = AXIS / BINS;
      const path = counts
        .map((count, i) => {
          const tall = count && Math.max(1.5, (TALLEST - 2) * Math.sqrt(count / top));
          return tall
            ? `M${(i * step + 0.5).toFixed(1)} ${TALLEST}v${-tall.toFixed(1)}h${step - 1}v${tall.toFixed(1)}z`
            : "";
        })
        .join("");
      pale.setAttribute("d", path);
      dark.setAttribute("d", path);
      let before = -1;
      const shown = TICKS.filter((tick) => {
        const x = place(tick, most);
        const fits = tick <= most && x - before > 0.09;
        if (fits) before = x;
        return fits;
      });
      ticks.replaceChildren(
        ...shown.map((tick) => el("span", { style: { left: `${100 * place(tick, most)}%` } }, String(tick))),
      );
    },
    move(epsilon, inside, total) {
      const x = place(epsilon, most);
      clip.setAttribute("width", (x * AXIS).toFixed(2));
      slider.value = Math.round(x * NOTCHES);
      slider.setAttribute("aria-valuetext", `ε = ${threshold(epsilon)}, ${number(inside)} of the ${number(total)} rows shown inside`);
    },
  };
}

/** The number itself, to be read and typed. */
export function epsilonField(onMove) {
  const field = el("input.epsilon", { type: "number", min: 0, step: "any", "aria-label": "ε", inputMode: "decimal" });
  let shown = "";
  field.addEventListener("change", () => {
    const value = Number(field.value);
    if (field.value !== "" && Number.isFinite(value) && value >= 0) onMove(value);
    else {
      field.reportValidity();
      field.value = shown; // what is not taken does not stand there as if it were
    }
  });
  return {
    element: field,
    set: (value) => {
      shown = threshold(value);
      if (field !== field.getRootNode().activeElement) field.value = shown;
    },
  };
}
