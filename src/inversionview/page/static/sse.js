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

/** The server did not answer, or not to the end: asking again may help, after `wait` seconds where it says so. */
export class Lost extends Error {
  constructor(sentence, wait = 0) {
    super(sentence);
    this.wait = wait;
  }
}

export class Api {
  /** `base`: the address of the server, empty for where the page itself lies, which may be below a proxy's path. */
  constructor(base = "") {
    this.base = `${base.replace(/\/?$/, base && "/")}api/v1`;
    this.client = Math.random().toString(36).slice(2);
  }

  async ask(path, parameters, signal, accept) {
    const given = Object.entries(parameters).filter(
      ([, value]) => value !== null && value !== undefined && value !== "",
    );
    const address = `${this.base}${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
    const response = await fetch(address, { signal, headers: { accept, "x-client": this.client } }).catch(cut(AWAY));
    if (response.ok) return response;
    const said = await response.json().then(
      ({ detail }) => detail,
      () => null,
    );
    const sentence = typeof said === "string" ? said : `The server answered ${response.status}.`;
    if (response.status === 429) throw new Lost(sentence, Number(response.headers.get("retry-after") ?? 1));
    throw response.status >= 500 ? new Lost(sentence) : new Error(sentence);
  }

  /** The JSON of an address; `busy` is told while the server has to be waited for, and `null` when it is asked again. */
  get(path, parameters = {}, signal = undefined, busy = undefined) {
    const work = async () => {
      const response = await this.ask(path, parameters, signal, "application/json");
      return response.json().catch(cut(AWAY));
    };
    return patiently(work, signal, busy);
  }

  /** Hand events to `on[event](data)` as they arrive; `on.busy` as in `get`. */
  stream(path, parameters, on, signal) {
    const work = async () => {
      const response = await this.ask(path, parameters, signal, "text/event-stream");
      for await (const { event, data } of eventsOr(CUT, response.body)) {
        signal?.throwIfAborted();
        if (event === "failed") throw data.retry_after ? new Lost(data.detail, data.retry_after) : new Error(data.detail);
        on[event]?.(data);
        if (event === "done") return;
      }
      throw new Lost(CUT);
    };
    return patiently(work, signal, on.busy);
  }
}

/** Events, and the sentence where they break off. */
async function* eventsOr(sentence, body) {
  try {
    yield* events(body);
  } catch (error) {
    cut(sentence)(error);
  }
}

/** What turns any error but an abort into a sentence. */
const cut = (sentence) => (error) => {
  throw error.name === "AbortError" ? error : new Lost(sentence);
};

/** Work again, a bounded number of times, where the server is busy and says for how long. */
async function patiently(work, signal, busy = () => {}) {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (!error.wait || tries === TRIES) throw error;
      const seconds = Math.min(LONGEST, error.wait);
      busy(`The server is busy: asking again in ${seconds} s.`);
      await later(seconds, signal);
      busy(null);
    }
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

const [TRIES, LONGEST] = [6, 60];
const AWAY = "The server cannot be reached: is it still running?";
const CUT = "The server went away in the middle of the reading.";
