// @ts-check
/** Which parts of a text carry it: asked once somebody stays at its card, told in numbers where they look. */

import { ask } from "./api.js";
import { make } from "./dom.js";
import { dtype, vectorOf } from "./reading.js";
import { ranked, scorable, state } from "./store.js";

const DWELL_MS = 250;

/**
 * @param {HTMLElement} card
 * @param {number} position
 * @param {() => void} draw
 */
export function carries(card, position, draw) {
  if (!scorable()) return;
  const told = make("p", { class: "figures told" });
  card.querySelector(".samples")?.after(told);
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(() => ablate(position).then((changed) => changed && draw(), (error) => (told.textContent = error.message)), DWELL_MS);
  };
  card.addEventListener("pointerenter", soon);
  card.addEventListener("focusin", soon);
  card.addEventListener("pointerleave", () => clearTimeout(timer));
  for (const kind of ["pointerover", "focusin"])
    card.addEventListener(kind, (event) => {
      const part = /** @type {HTMLElement} */ (event.target).closest(".part");
      told.textContent = part ? /** @type {HTMLElement} */ (part).title : "";
    });
}

/**
 * @param {number} position
 * @returns {Promise<boolean>} whether there is something new
 */
async function ablate(position) {
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
