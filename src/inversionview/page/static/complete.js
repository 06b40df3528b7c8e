// Completeness: log p(x | z) of the decoder against D, input by input, as a scatter on a canvas.

import { colour, el, fixed, percent, threshold } from "./dom.js";

const [BROAD, TALL_AS, LEFT, FOOT] = [720, 300, 46, 26];

/** Make the section; `ask()` fetches the answer of the server. */
export function completenessOf(ask) {
  const run = el("button.button", { type: "button" }, "Score 20,000 inputs");
  const canvas = el("canvas", {
    width: 2 * BROAD,
    height: 2 * TALL_AS,
    role: "img",
    "aria-label": "log p against distance",
  });
  const said = el("p.result", { role: "status" });
  const figure = el("figure", { hidden: true }, canvas);
  const element = el(
    "details.more-about",
    {},
    el("summary", {}, "Completeness: does the decoder know the whole preimage?"),
    el("p", {}, run),
    said,
    figure,
  );
  let last = null,
    asked = 0; // an answer that comes when something else has been asked is dropped
  run.addEventListener("click", async () => {
    reset("Scoring…");
    const mine = asked;
    run.disabled = true;
    try {
      const answer = await ask();
      if (mine !== asked) return;
      last = answer;
      figure.hidden = false;
      said.textContent = verdict(last);
      scatter(canvas, last);
    } catch (error) {
      if (mine !== asked) return;
      said.textContent = error.name === "AbortError" ? "" : error.message;
    }
    run.disabled = false;
  });
  function reset(sentence = "") {
    asked++;
    [last, figure.hidden, said.textContent, run.disabled] = [null, true, sentence, false];
  }

  return {
    element,
    reset: () => reset(),
    set: (possible) => {
      element.hidden = !possible;
    },
    redraw: () => last && scatter(canvas, last),
  };
}

function verdict({ recall, percentile, epsilon, distance }) {
  const within = `ε = ${threshold(epsilon)} (${distance})`;
  if (recall === null) return `No other input that was scored lies inside ${within}.`;
  return (
    `Of the inputs inside ${within}, ${percent(recall)} are likelier to be drawn than 95 % of those outside ` +
    `(log p above ${fixed(percentile, 1)}, the dashed line).`
  );
}

/** Draw the points; those outside first, so that those inside are seen. */
function scatter(canvas, { points: all, epsilon, percentile }) {
  const points = all.filter(([, p]) => p !== null);
  const context = canvas.getContext("2d"),
    style = getComputedStyle(canvas);
  const most = Math.max(epsilon * 1.5, ...points.map(([d]) => d));
  const [low, high] = [Math.min(...points.map(([, p]) => p)), Math.max(...points.map(([, p]) => p))];
  const x = (d) => LEFT + (BROAD - LEFT - 8) * Math.sqrt(d / most);
  const y = (p) => 8 + (TALL_AS - FOOT - 8) * (1 - (p - low) / (high - low || 1));
  context.setTransform(2, 0, 0, 2, 0, 0);
  context.clearRect(0, 0, BROAD, TALL_AS);
  context.font = `11px ${style.fontFamily}`;
  for (const wanted of [0, 1]) {
    context.fillStyle = colour(canvas.parentNode, wanted ? "blue" : "bar");
    context.globalAlpha = wanted ? 1 : 0.4;
    for (const [d, p, inside] of points)
      if (Number(inside) === wanted) context.fillRect(x(d) - 1.2, y(p) - 1.2, 2.4, 2.4);
  }
  context.globalAlpha = 1;
  context.fillStyle = style.color;
  context.textAlign = "right";
  for (const p of [low, (low + high) / 2, high]) context.fillText(fixed(p, 0), LEFT - 6, y(p) + 4);
  context.textAlign = "center";
  for (const d of [0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].filter((d) => d < most))
    context.fillText(d, x(d), TALL_AS - 8);
  context.fillText("log p", LEFT - 18, TALL_AS - 8);
  if (percentile !== null) {
    context.setLineDash([5, 4]);
    context.strokeStyle = style.color;
    context.strokeRect(LEFT, y(percentile), BROAD - LEFT, 0);
    context.setLineDash([]);
  }
  context.fillStyle = colour(canvas.parentNode, "line");
  context.fillRect(x(epsilon) - 0.75, 0, 1.5, TALL_AS - FOOT);
}
