// @ts-check
/** The public HTTP API: one way to send, errors in the server's own words, and server-sent events. */

const KEY = "nla-api-key";
/** The pair that is asked: its name is that of the page's address; null: the server's only one. */
export const pair = { name: new URLSearchParams(location.search).get("model") };
/** An event of the window: the server asks for a key. */
export const LOCKED = "locked";
/** An event of the window: the server tells what is left of the caller's limits a minute; its detail is a sentence. */
export const LEFT = "left";

/** What the server refused, or why it was not reached. */
export class Refused extends Error {
  /**
   * @param {string} message
   * @param {number} status 0: it was not reached
   * @param {number} [wait] seconds until it may be asked again; 0: nothing was said of that
   */
  constructor(message, status, wait = 0) {
    super(wait ? `${message} (again in ${wait} s)` : message);
    this.status = status;
    this.wait = wait;
  }
}

/** @param {string} key */
export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/**
 * The body of a request to the pair.
 * @param {object} body
 */
export function named(body) {
  return pair.name === null ? body : { model: pair.name, ...body };
}

/**
 * @param {string} path
 * @param {object | undefined} body sent by POST; undefined: GET
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>}
 */
async function send(path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = hasKey() ? { authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(named(body)), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused("The server cannot be reached. What is here stays; try again when it is back.", 0);
  }
  tellLeft(response.headers);
  if (response.ok) return response;
  if (response.status === 401) dispatchEvent(new Event(LOCKED));
  const told = await response.json().catch(() => null);
  const wait = Number(response.headers.get("retry-after") ?? 0);
  throw new Refused(told?.error?.message ?? `The server answered ${response.status}.`, response.status, wait);
}

/** @param {Headers} headers */
function tellLeft(headers) {
  const told = ["requests", "tokens"].map((kind) => {
    const [left, most] = ["remaining", "limit"].map((what) => headers.get(`x-ratelimit-${what}-${kind}`));
    return most === null ? "" : `${left} of ${most} ${kind}`;
  }).filter(Boolean);
  if (told.length) dispatchEvent(new CustomEvent(LEFT, { detail: `Left for this minute: ${told.join(", ")}.` }));
}

/**
 * @param {string} path
 * @param {object} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/**
 * Yield events as they come.
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<{name: string, data: any}>}
 */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let last = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parse(block);
        if (event) {
          last = event.name;
          yield event;
        }
      }
    }
  } catch (error) {
    if (signal.aborted) throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
  if (last !== "done") throw new Refused("The connection was lost. What came stays; Explain goes on with the rest.", 0);
}

/** @param {string} block */
function parse(block) {
  const lines = block.split("\n");
  const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
  const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
  return name && data ? { name, data: JSON.parse(data) } : null;
}
