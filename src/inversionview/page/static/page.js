// The exported page: shows the readings that the document itself holds.

import { mount } from "./mount.js";

const held = document.getElementById("readings");
mount(document.body, { readings: JSON.parse(held.textContent), whole: true });
