// @ts-check
/** The difference of two tokens, or of two texts, put on a base and explained. */

import { ask } from "./api.js";
import { byId, figure, make, tell } from "./dom.js";
import { dtype, vectorOf } from "./reading.js";
import { on, state } from "./store.js";
import { decode, encode, mix, norm } from "./vectors.js";

/** A bare difference of another norm than the layer's by more than this is a vector like none of the model's. */
const FAR = 1.5;
const select = (/** @type {string} */ name) => /** @type {HTMLSelectElement} */ (byId(`difference-${name}`));
const kind = select("kind");
const [from, to, base] = ["from", "to", "base"].map(select);
const alpha = /** @type {HTMLInputElement} */ (byId("alpha"));
const warning = byId("difference-warning");
const problem = byId("difference-problem");
const result = byId("difference-result");
let turn = 0;

export function start() {
  on(["explained"], offer);
  alpha.addEventListener("input", () => (byId("alpha-text").textContent = figure(Number(alpha.value))));
  byId("explain-difference").addEventListener("click", () => void explain());
  byId("difference").hidden = !state.info.verbalizer;
  kind.disabled = !state.info.reconstructor;
  kind.addEventListener("change", () => {
    byId("difference-texts").hidden = kind.value !== "texts";
    byId("difference-tokens").hidden = kind.value === "texts";
  });
  offer();
}

function offer() {
  const tokens = [...state.explained.values()].map(({ token }) => ({ value: `${token.position}`, text: `${token.position} ${token.text}` }));
  for (const one of [from, to, base]) {
    const kept = one.value;
    one.replaceChildren(...tokens.map(({ value, text }) => make("option", { value }, text)));
    if (tokens.some(({ value }) => value === kept)) one.value = kept;
  }
  if (to.value === from.value) to.selectedIndex = from.selectedIndex ? 0 : tokens.length - 1;
}

/** @param {HTMLSelectElement} choice */
async function chosen(choice) {
  if (choice.value === "") throw new Error("Explain some tokens first: their vectors are what is put together.");
  return decode(await vectorOf(Number(choice.value)), dtype());
}

/** @returns {Promise<Float32Array[]>} the two ends */
async function ends() {
  if (kind.value !== "texts") return [await chosen(from), await chosen(to)];
  const texts = ["before", "after"].map((name) => /** @type {HTMLTextAreaElement} */ (byId(`difference-${name}`)).value);
  if (!texts.every((text) => text.trim())) throw new Error("Write both texts: the difference is between the vectors rebuilt from them.");
  const answer = await ask("reconstruct", { texts, dtype: "float32" });
  return answer.vectors.map((/** @type {string} */ vector) => decode(vector, "float32"));
}

async function explain() {
  const mine = ++turn;
  tell(warning, null);
  tell(problem, null);
  result.textContent = "…";
  try {
    const under = await chosen(base);
    const [one, other] = await ends();
    const length = norm(other.map((value, k) => value - one[k]));
    if (!length) throw new Error("The two are the same: choose two that differ.");
    const usual = norm(under);
    if (length > usual * FAR || length < usual / FAR)
      tell(warning, `The bare difference has norm ${figure(length, 1)}, the base ${figure(usual, 1)}: by itself it would be like no`
        + " vector of the model. That is why it is put on a base.");
    const strength = Number(alpha.value);
    const { temperature, seed } = state.settings;
    const vectors = encode(mix(under, one, other, strength));
    const answer = await ask("verbalize", { vectors, dtype: "float32", temperature, seed });
    const { text, complete } = answer.results[0].samples[0];
    if (mine === turn) result.textContent = `With alpha ${figure(strength)}${complete ? "" : ", incomplete"}:\n${text}`;
  } catch (error) {
    if (mine !== turn) return;
    result.textContent = "";
    tell(problem, error);
  }
}
