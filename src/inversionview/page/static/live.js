// The server's page: the live explorer, asking the server it came from.

import { mount } from "./mount.js";

mount(document.body, { api: "", whole: true });
