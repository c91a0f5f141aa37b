// @ts-check
/** Searching in all explanations, filtering them by how well they score, and their order. */

import { all } from "./cards.js";
import { byId, later } from "./dom.js";
import { measure, on, ranked, share, state } from "./store.js";

const search = /** @type {HTMLInputElement} */ (byId("search"));
const least = /** @type {HTMLInputElement} */ (byId("least"));
const order = /** @type {HTMLSelectElement} */ (byId("order"));

export function start() {
  byId("least-of").textContent = `${measure()} at least`;
  search.addEventListener("input", later(apply, 100));
  least.addEventListener("input", later(apply, 100));
  order.addEventListener("change", apply);
  on(["explained", "running", "built"], apply);
}

function apply() {
  const wanted = search.value.trim().toLowerCase();
  const floor = least.value === "" ? -Infinity : Number(least.value);
  let found = 0;
  for (const { position, card } of all()) {
    const samples = state.explained.get(position)?.samples ?? [];
    const fits = samples.some((sample) => sample.text.toLowerCase().includes(wanted)) && shareOf(position) >= floor;
    card.hidden = !fits && !state.running && samples.length > 0;
    found += card.hidden ? 0 : 1;
  }
  byId("found").textContent = wanted || least.value !== "" ? `${found} of ${state.explained.size}` : "";
  sort();
}

/** The document's own order changes, so that keyboard and screen reader follow it. */
function sort() {
  const place = { position: (/** @type {number} */ at) => at, best: (/** @type {number} */ at) => -shareOf(at), worst: shareOf }[order.value];
  if (!place) return;
  const wanted = all().sort((one, other) => place(one.position) - place(other.position) || one.position - other.position);
  const region = byId("explanations");
  const now = [...region.querySelectorAll("article")];
  if (wanted.some(({ card }, k) => card !== now[k])) region.append(...wanted.map(({ card }) => card));
}

/** @param {number} position */
function shareOf(position) {
  const explained = state.explained.get(position);
  const score = explained && ranked(explained)[0]?.score;
  return score ? share(score) : -9;
}
