// @ts-check
/** The pair that is asked, where the server has several: another one is the same page at another address. */

import { ask, pair } from "./api.js";
import { byId, make } from "./dom.js";
import { LONGEST_LINK, kept } from "./share.js";
import { state } from "./store.js";

const choice = /** @type {HTMLSelectElement} */ (byId("pair"));

/** Offer the server's pairs, where there is a choice. */
export async function start() {
  /** @type {string[]} */
  const names = (await ask("v1/models")).data.map((/** @type {{id: string}} */ one) => one.id);
  if (names.length > 1) pair.name ??= names[0] ?? null; // by its name, whichever is the first after a restart
  byId("pairs").hidden = names.length < 2 && (pair.name === null || names.includes(pair.name));
  choice.replaceChildren(...names.map((name) => make("option", {}, name)));
  choice.value = pair.name ?? "";
  choice.addEventListener("change", go);
}

/** What is read goes along; vectors do not, which are another model's, nor their tab where it is the only one. */
function go() {
  const { tab, ...read } = kept();
  const fragment = encodeURIComponent(JSON.stringify(state.info?.source ? { tab, ...read } : read));
  const there = new URL(location.href);
  there.searchParams.set("model", choice.value);
  there.hash = fragment.length > LONGEST_LINK ? "" : fragment;
  choice.value = pair.name ?? ""; // of this page, to which one may come back
  location.assign(there);
}
