// The widget of a notebook: shows the readings that the kernel sends, on the notebook's own ground, light or dark.

import { mount } from "./mount.js";

/** Show a model's readings in the output of a cell, and again when they change. */
function render({ model, el: element }) {
  const draw = () => mount(element, { readings: JSON.parse(model.get("readings")), note: model.get("note"), theme: ground(element) });
  const keep = (event) => { if (element.contains(event.target)) kept(event); };
  window.addEventListener("keydown", keep, true);
  model.on("change:readings", draw);
  draw();
  return () => {
    window.removeEventListener("keydown", keep, true);
    model.off("change:readings", draw);
  };
}

/** A plain key pressed in the widget is no shortcut of JupyterLab, which asks the very element that has the focus. */
function kept(event) {
  event.target.toggleAttribute("data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
}

/** Where text is light, the ground is dark. */
function ground(element) {
  const ink = getComputedStyle(element.isConnected ? element : document.body).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  return ink.reduce((a, b) => a + b) > 384 ? "dark" : "light";
}

export default { render };
