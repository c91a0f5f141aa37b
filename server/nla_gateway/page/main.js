// @ts-check
/** Starts the page: asks the server what it serves, and for a key where one is needed; then starts the panels. */

import { LEFT, LOCKED, Refused, ask, hasKey, keepKey, pair } from "./api.js";
import * as cards from "./cards.js";
import * as carrying from "./carrying.js";
import * as compare from "./compare.js";
import * as difference from "./difference.js";
import { byId, tell } from "./dom.js";
import * as explain from "./explain.js";
import * as find from "./find.js";
import * as input from "./input.js";
import * as pairs from "./pairs.js";
import * as reading from "./reading.js";
import * as share from "./share.js";
import { scorable, set, state } from "./store.js";
import * as tokens from "./tokens.js";

const form = /** @type {HTMLFormElement} */ (byId("key"));
const problem = byId("problem");
let started = false;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(String(new FormData(form).get("key")));
  void start();
});
addEventListener(LOCKED, () => {
  form.hidden = false;
  tell(problem, hasKey() ? "The server does not know this key." : null);
  form.querySelector("input")?.focus();
});
addEventListener(LEFT, (event) => {
  byId("left").textContent = `· ${/** @type {CustomEvent<string>} */ (event).detail}`;
});
void start();

/** Ask what is served; where that worked once, a new key is all that changes. */
async function start() {
  tell(problem, null);
  try {
    await pairs.start();
    const info = await ask(pair.name === null ? "v1/info" : `v1/info?model=${encodeURIComponent(pair.name)}`);
    form.hidden = true;
    if (started) return;
    started = true;
    set({ info });
  } catch (error) {
    byId("served").textContent = "";
    if (!(error instanceof Refused && error.status === 401)) tell(problem, error);
    return;
  }
  say();
  byId("main").hidden = false;
  tell(problem, share.restore());
  for (const panel of [reading, tokens, cards, carrying, explain, compare, difference, find, share]) panel.start();
  await input.start();
}

/** Tell what this is to somebody who has never heard of it. */
function intro() {
  const { verbalizer } = state.info;
  const held = "At each token of a text a language model holds some numbers.";
  const guessed = " Here another model guesses what they hold, and writes it down: a guess in its own words, not a quotation.";
  const scored = ` From ${verbalizer ? "these words alone" : "your words"} the numbers are rebuilt, and the score tells how much of them came back.`;
  return held + (verbalizer ? guessed : "") + (scorable() ? scored : "");
}

/** Tell what is served. */
function say() {
  const { verbalizer, reconstructor, source, base_model: base, layer, d_model: width, versions } = state.info;
  const model = source?.model ?? base;
  const read = `activations of ${model ?? "a model"}${layer === null ? "" : ` after block ${layer}`}, ${width} numbers each`;
  const served = verbalizer ? `${verbalizer.model} puts ${read}, into words.`
    : reconstructor ? `There is no verbalizer: ${reconstructor.model} scores your own texts against ${read}.` : `Only ${read}, are served.`;
  byId("served").textContent = served;
  byId("intro").textContent = intro();
  byId("intro").hidden = false;
  byId("versions").textContent = Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(" · ");
}
