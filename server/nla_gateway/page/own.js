// @ts-check
/** A text of one's own on a card, scored while it is typed; of several requests the last one counts. */

import { ask } from "./api.js";
import { later, make, scores } from "./dom.js";
import { dtype, vectorOf } from "./reading.js";
import { ranked, scorable } from "./store.js";

/**
 * @param {number} position
 * @param {import("./store.js").Explained} found
 */
export function own(position, found) {
  const area = /** @type {HTMLTextAreaElement} */ (make("textarea", { "aria-label": "Your explanation", rows: "2" }));
  const status = make("span", { role: "status", class: "figures" });
  area.placeholder = "Your own words, or change the text above, and see how they score";
  area.value = found.own;
  area.disabled = !scorable();
  let turn = 0;
  const score = later(async () => {
    const mine = ++turn;
    if (!area.value.trim()) return void (status.textContent = "");
    let told;
    try {
      const body = { texts: [area.value], vectors: [await vectorOf(position)], dtype: dtype() };
      told = `yours: ${scores((await ask("critic", body)).results[0])}`;
    } catch (error) {
      told = error instanceof Error ? error.message : String(error);
    }
    if (mine === turn) status.textContent = told;
  }, 200);
  area.addEventListener("input", () => {
    found.own = area.value;
    score();
  });
  area.addEventListener("focus", () => {
    const said = ranked(found)[0];
    if (area.value || !said || said.running) return;
    area.value = said.text;
    score();
  });
  if (area.value) score();
  return make("div", { class: "own" }, area, status);
}
