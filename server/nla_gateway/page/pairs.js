// @ts-check
/** The pair that is asked, where the server has several: another one is the same page at another address. */

import { MODEL, ask } from "./api.js";
import { byId, make } from "./dom.js";
import { kept } from "./share.js";
import { state } from "./store.js";

const choice = /** @type {HTMLSelectElement} */ (byId("pair"));

/** Offer the server's pairs, where there is more than one. */
export async function start() {
  /** @type {string[]} */
  const names = (await ask("v1/models")).data.map((/** @type {{id: string}} */ one) => one.id);
  byId("pairs").hidden = names.length < 2;
  choice.replaceChildren(...names.map((name) => make("option", {}, name)));
  choice.value = MODEL ?? names[0] ?? "";
  choice.addEventListener("change", go);
}

/** What is read goes along; vectors do not, which are another model's, nor their tab where it is the only one. */
function go() {
  const { tab, ...read } = kept();
  const there = new URL(location.href);
  there.searchParams.set("model", choice.value);
  there.hash = encodeURIComponent(JSON.stringify(state.info?.source ? { tab, ...read } : read));
  location.assign(there);
}
