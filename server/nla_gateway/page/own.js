// @ts-check
/** A text of one's own on a card, scored while it is typed; of several requests the last one counts. */

import { Refused, ask } from "./api.js";
import { figure, later, make, scores } from "./dom.js";
import { dtype, vectorOf } from "./reading.js";
import { ranked, scorable, share } from "./store.js";

/**
 * @param {number} position
 * @param {import("./store.js").Explained} found
 */
export function own(position, found) {
  const area = /** @type {HTMLTextAreaElement} */ (make("textarea", { "aria-label": "Your explanation", rows: "2" }));
  const status = make("span", { role: "status", class: "figures" });
  const copy = make("button", { type: "button" }, "Start from the text above");
  area.placeholder = "Doubt it: write other words, best in the form of the text above, and see how they score";
  area.value = found.own;
  area.disabled = !scorable();
  copy.hidden = !scorable() || !found.samples.length;
  let turn = 0;
  let heldUntil = 0;
  const score = later(async () => {
    if (turn && !area.isConnected) return;  // the card was replaced, perhaps while this waited
    const mine = ++turn;
    if (!area.value.trim()) return void (status.textContent = "");
    if (Date.now() < heldUntil) return;  // it is asked for once that is over
    let told;
    try {
      const body = { texts: [area.value], vectors: [await vectorOf(position)], dtype: dtype() };
      const scored = (await ask("critic", body)).results[0];
      told = `yours: ${scores(scored)}${beside(scored)}`;
    } catch (error) {
      told = error instanceof Error ? error.message : String(error);
      if (error instanceof Refused && error.wait) {
        heldUntil = Date.now() + 1000 * error.wait;
        setTimeout(score, 1000 * error.wait);
      }
    }
    if (mine === turn) status.textContent = told;
  }, 200);
  /** @param {import("./store.js").Score} scored */
  const beside = (scored) => {
    const theirs = ranked(found)[0]?.score;
    if (!theirs) return "";
    const more = share(scored) - share(theirs);
    return Math.abs(more) < 0.005 ? "; as good as the text above" : `; ${figure(Math.abs(more))} ${more > 0 ? "better" : "worse"} than the text above`;
  };
  const typed = () => {
    found.own = area.value;
    score();
  };
  area.addEventListener("input", typed);
  copy.addEventListener("click", () => {
    area.value = ranked(found)[0]?.text ?? "";
    area.rows = Math.min(8, area.value.split("\n").length + 1);
    area.focus();
    typed();
  });
  if (area.value) score();
  return make("div", { class: "own" }, area, make("div", { class: "row" }, copy, status));
}
