// Ask the server: JSON, or a stream of server-sent events that ends when its signal is aborted.

/** Events of a response's body as `{event, data}`, data parsed from JSON. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const event = parsed(part);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const fields = { event: "message", data: [] };
  for (const line of block.split("\n")) {
    const [, name, value] = line.match(/^(\w+): ?(.*)$/s) ?? [];
    if (name === "data") fields.data.push(value);
    else if (name === "event") fields.event = value;
  }
  return fields.data.length ? { event: fields.event, data: JSON.parse(fields.data.join("\n")) } : null;
}

export class Api {
  /** `base`: the address of the server, empty for the page's own. */
  constructor(base = "") {
    this.base = `${base.replace(/\/$/, "")}/api/v1`;
  }

  async ask(path, parameters, signal, accept, tries = 5) {
    const given = Object.entries(parameters).filter(
      ([, value]) => value !== null && value !== undefined && value !== "",
    );
    const address = `${this.base}${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
    const response = await fetch(address, { signal, headers: { accept } }).catch((error) => {
      throw error.name === "AbortError"
        ? error
        : new Error("The server cannot be reached: start it again, then try again.");
    });
    if (response.ok) return response;
    const said = await response.json().then(
      ({ detail }) => detail,
      () => null,
    );
    if (response.status === 429 && tries > 1) {
      await later(Math.min(20, Number(response.headers.get("retry-after") ?? 1)), signal);
      return this.ask(path, parameters, signal, accept, tries - 1);
    }
    throw new Error(typeof said === "string" ? said : `The server answered ${response.status}.`);
  }

  /** The JSON of an address. */
  async get(path, parameters = {}, signal = undefined) {
    return (await this.ask(path, parameters, signal, "application/json")).json();
  }

  /** Hand events to `on[event](data)` as they arrive. */
  async stream(path, parameters, on, signal) {
    const response = await this.ask(path, parameters, signal, "text/event-stream");
    let ended = false;
    try {
      for await (const { event, data } of events(response.body)) {
        if (event === "failed") throw new Error(data.detail);
        on[event]?.(data);
        ended ||= event === "done";
      }
    } catch (error) {
      throw error instanceof TypeError ? new Error(CUT) : error;
    }
    if (!ended && !signal?.aborted) throw new Error(CUT);
  }
}

/** Wait so many seconds, unless the signal is aborted. */
function later(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(signal.reason);
      },
      { once: true },
    );
  });
}

const CUT = "The server went away in the middle of the reading: what had arrived is shown.";
