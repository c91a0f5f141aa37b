// @ts-check
/** Explaining: one request for all chosen tokens, whose texts stream in; Stop ends it, in the engines too. */

import { events } from "./api.js";
import { begin, show } from "./cards.js";
import { byId, tell } from "./dom.js";
import { settled, source } from "./input.js";
import { on, scorable, set, state } from "./store.js";
import { most, paint } from "./tokens.js";

const SAID_EVERY_MS = 1000;
const problem = byId("explain-problem");
const bar = /** @type {HTMLProgressElement} */ (byId("progress"));
const button = byId("explain");
const stopper = byId("stop");
/** @type {AbortController | null} */
let running = null;
let said = 0;

export function start() {
  if (!state.info.verbalizer) button.textContent = "Score texts of your own";
  button.addEventListener("click", () => void explain());
  stopper.addEventListener("click", stop);
  for (const name of /** @type {const} */ (["n", "temperature", "seed"])) {
    const input = /** @type {HTMLInputElement} */ (byId(name));
    input.value = String(state.settings[name] ?? "");
    input.addEventListener("change", () => change(name, input));
  }
  /** @type {HTMLInputElement} */ (byId("n")).max = String(state.info.limits.max_n);
  on(["edits"], stop);
  on(["tokens"], () => {
    byId("progress-text").textContent = "";
    tell(problem, null);
  });
}

/**
 * @param {"n" | "temperature" | "seed"} name
 * @param {HTMLInputElement} input
 */
function change(name, input) {
  /** @type {number | null} */
  let value = input.value === "" ? null : Number(input.value);
  if (name === "n") value = Math.min(state.info.limits.max_n, Math.max(1, Math.round(value ?? 1)));
  if (name === "temperature") value ??= 0;
  input.value = String(value ?? "");
  tell(problem, null);
  set({ settings: { ...state.settings, [name]: value }, chosen: new Set(state.chosen) });
  const { n, temperature } = state.settings;
  byId("alike").hidden = !(n > 1 && temperature === 0);
}

/** Which positions are asked for, in their order. */
export function asked() {
  return [...state.chosen].sort((a, b) => a - b).slice(-most());
}

/**
 * The request that Explain sends, and where to.
 * @param {number[]} positions
 * @returns {{path: string, body: Record<string, unknown>}}
 */
export function request(positions) {
  const sampling = { ...state.settings, score: scorable() };
  if (state.tab !== "vectors") return { path: "explain", body: { ...source(), positions, ...sampling } };
  const vectors = positions.map((position) => state.given.vectors[position]);
  return { path: "verbalize", body: { vectors, dtype: state.given.dtype, ...sampling } };
}

function stop() {
  running?.abort();
}

async function explain() {
  if (running) return;
  const control = (running = new AbortController());
  tell(problem, null);
  busy(true);
  try {
    await settled();
    const positions = left(asked());
    if (!state.tokens.length && !byId("input-problem").hidden) return; // it says what is wrong
    if (!state.tokens.length) return tell(problem, `There is nothing to explain yet: put in ${state.tab === "vectors" ? "a vector" : "a text"}.`);
    if (!positions.length) return tell(problem, "Choose at least one token first.");
    if (!state.info.verbalizer) return begin(positions, 0, "");
    await receive(positions, control.signal);
  } catch (error) {
    if (!control.signal.aborted) tell(problem, error);
  } finally {
    running = null;
    busy(false);
  }
}

/** @param {boolean} now */
function busy(now) {
  const focused = document.activeElement;
  button.setAttribute("aria-disabled", String(now));
  stopper.hidden = bar.hidden = !now;
  bar.removeAttribute("value"); // nobody knows yet how much it is
  if (now && focused === button) stopper.focus();
  if (!now && focused === stopper) button.focus();
  set({ running: now });
}

/**
 * After a lost connection or a stop, only what did not come is asked for again.
 * @param {number[]} positions
 */
function left(positions) {
  const settings = JSON.stringify(state.settings);
  const missing = positions.filter((position) => {
    const found = state.explained.get(position);
    return found?.asked !== settings || found.samples.some((sample) => sample.finish_reason === null);
  });
  return missing.length ? missing : positions;
}

/**
 * @param {number[]} positions
 * @param {AbortSignal} signal
 */
async function receive(positions, signal) {
  const { path, body } = request(positions);
  const before = state.explained;
  const whole = positions.length * state.settings.n;
  let done = 0;
  /** What was begun, which is another tab's once that is opened. @type {typeof before | null} */
  let mine = null;
  progress(0, whole);
  try {
    for await (const { name, data } of events(path, { ...body, stream: true }, signal)) {
      if (!mine) begin(positions, state.settings.n, JSON.stringify(state.settings));
      mine ??= state.explained; // what was there before stays until something comes
      if (name === "done") continue;
      if (name === "tokens") {
        for (const token of data.tokens) Object.assign(mine.get(token.position)?.token ?? {}, token);
        positions.forEach(show);
        continue;
      }
      const position = data.position ?? positions[data.index];
      const found = mine.get(position);
      if (!found) continue;
      if (name === "sample.delta") found.samples[data.sample].text += data.text;
      else if (name === "error") found.problem = data.error.message;
      else {
        const { text, complete, finish_reason, score } = data;
        found.samples[data.sample] = { text, complete, finish_reason, score };
        paint(position);
      }
      if (name !== "sample.delta") progress(++done, whole);
      show(position);
    }
  } finally {
    if (done < whole && (!mine || mine === state.explained)) byId("progress-text").textContent = `ended after ${done} of ${whole}`;
    if (mine) for (const position of positions) end(position, mine.get(position), before.get(position));
  }
}

/**
 * @param {number} position
 * @param {import("./store.js").Explained | undefined} found
 * @param {import("./store.js").Explained | undefined} before what was there, if nothing new came
 */
function end(position, found, before) {
  if (!found) return;
  for (const sample of found.samples) sample.running = false;
  if (before && !found.problem && found.samples.every((sample) => !sample.text)) Object.assign(found, before);
  show(position);
}

/**
 * @param {number} done
 * @param {number} whole
 */
function progress(done, whole) {
  bar.max = whole;
  bar.value = done;
  const now = Date.now();
  if (done > 0 && done < whole && now - said < SAID_EVERY_MS) return;
  said = now;
  byId("progress-text").textContent = `${done} of ${whole}`;
}
