// @ts-check
/** Which parts of a text carry it: asked once somebody stays at its card, or goes to its token, and told in words. */

import { ask } from "./api.js";
import { figure, make } from "./dom.js";
import { settled } from "./input.js";
import { dtype, vectorOf } from "./reading.js";
import { measure, on, ranked, scorable, share, state } from "./store.js";

const DWELL_MS = 250;
const UNTOLD = "Point at this card, or tap it, to see which words carry the score.";
/** What each card does to have its parts asked for. @type {Map<number, () => void>} */
const asking = new Map();
/** Of whoever stays at a token, or at a card: at one of each at a time. @type {Record<string, ReturnType<typeof setTimeout>>} */
const timers = {};

export function start() {
  on(["looked"], () => soon("token", asking.get(state.at)));
  on(["running"], () => state.running || asking.get(first())?.());
}

/**
 * @param {"token" | "card"} where
 * @param {(() => void) | undefined} ask
 */
function soon(where, ask) {
  clearTimeout(timers[where]);
  if (ask) timers[where] = setTimeout(ask, DWELL_MS);
}

/** The card that is looked at, or the first one. */
function first() {
  return state.explained.has(state.at) ? state.at : [...state.explained.keys()][0];
}

/**
 * @param {HTMLElement} card
 * @param {number} position
 * @param {() => void} draw
 */
export function carries(card, position, draw) {
  asking.delete(position);
  if (!scorable()) return;
  const told = make("p", { class: "figures told" }, UNTOLD);
  card.querySelector(".samples")?.after(told);
  const found = state.explained.get(position);
  told.hidden = !found?.samples.length;
  const now = () => void ablate(position).then((changed) => {
    if (changed) draw();
    if (changed || told.textContent === UNTOLD) told.textContent = summary(position) || UNTOLD;
  }, (error) => (told.textContent = error.message));
  asking.set(position, now);
  card.addEventListener("pointerenter", () => soon("card", now));
  card.addEventListener("focusin", () => soon("card", now));
  card.addEventListener("pointerleave", () => soon("card", undefined));
  card.addEventListener("click", now); // a finger does not stay
  for (const kind of ["pointerover", "focusin", "click"])
    card.addEventListener(kind, (event) => {
      const part = /** @type {HTMLElement} */ (event.target).closest(".part");
      if (part) told.textContent = /** @type {HTMLElement} */ (part).title;
      else if (summary(position)) told.textContent = summary(position);
    });
}

/**
 * What carries a text most, in words.
 * @param {number} position
 */
function summary(position) {
  const found = state.explained.get(position);
  const sample = found && ranked(found)[0];
  if (!sample?.parts?.length || !sample.whole) return "";
  const [whole, parts] = [share(sample.whole), sample.parts];
  const most = parts.reduce((one, other) => (share(other.without) < share(one.without) ? other : one));
  const left = share(most.without);
  if (parts.length < 2) return "This text has one part alone: that carries it.";
  if (figure(left) === figure(whole) || left > whole) return `No part carries it alone: without any one of them ${measure()} is as high.`;
  return `Carried most by “${most.text.trim()}”: without it ${measure()} falls from ${figure(whole)} to ${figure(left)}.`
    + " The bluer a part's line, the more is lost without it.";
}

/**
 * @param {number} position
 * @returns {Promise<boolean>} whether there is something new
 */
async function ablate(position) {
  await settled(); // what is read may have changed
  const found = state.explained.get(position);
  const sample = found && ranked(found)[0];
  if (!sample?.text || sample.running || sample.parts) return false;
  sample.parts = [];
  try {
    const by = sample.text.includes("\n") ? "line" : "sentence";
    const vectors = [await vectorOf(position)];
    const { results: [{ parts, score }] } = await ask("ablate", { texts: [sample.text], vectors, dtype: dtype(), by });
    [sample.parts, sample.whole] = [parts, score];
  } catch (error) {
    delete sample.parts; // asked again the next time
    throw error;
  }
  return true;
}
