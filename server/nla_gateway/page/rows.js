// @ts-check
/** Vectors as they are given: typed in base64, or out of a file that is dropped or chosen. */

import { ask } from "./api.js";
import { byId, tell } from "./dom.js";
import { readFile } from "./files.js";
import { state } from "./store.js";
import { decode, norm } from "./vectors.js";

/** @typedef {import("./store.js").Given} Given */

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const area = /** @type {HTMLTextAreaElement} */ (byId("vectors"));
const dtype = /** @type {HTMLSelectElement} */ (byId("vector-dtype"));
const hint = byId("vector-hint");
/** @type {(changes: {given: Given}) => void} */
let change;
/** @type {HTMLElement} */
let problem;

/**
 * @param {(changes: {given: Given}) => void} edited
 * @param {HTMLElement} place where failures are told
 */
export function start(edited, place) {
  [change, problem] = [edited, place];
  say(state.given.vectors.length ? "out of the link" : null);
  const typed = () => {
    say(null);
    change({ given: { vectors: area.value.split(/\s+/).filter(Boolean), dtype: dtype.value } });
  };
  area.addEventListener("input", typed);
  dtype.addEventListener("change", typed);
  const chooser = /** @type {HTMLInputElement} */ (byId("vector-file"));
  chooser.addEventListener("change", async () => {
    await take(chooser.files?.[0]);
    chooser.value = ""; // the same file may be chosen again
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault(); // a browser would leave the page for the file
    if (state.tab === "vectors") void take(event.dataTransfer?.files[0]);
  });
  const button = byId("demo-vectors");
  button.hidden = !String(state.info.verbalizer?.model).startsWith("smollm2-135m-l20");
  button.addEventListener("click", () => void ask("page/vectors.json").then(
    (given) => fill(given, "held-out vectors of the demo"), (error) => tell(problem, error)));
}

/**
 * A chip a row.
 * @returns {import("./store.js").Token[]}
 */
export function tokens() {
  const { vectors, dtype: type } = state.given;
  return vectors.map((vector, position) => {
    if (!BASE64.test(vector)) throw new Error(`row ${position} is not base64: its letters, digits, + and /, padded by = to a multiple of four`);
    const elements = decode(vector, type);
    if (elements.length !== state.info.d_model)
      throw new Error(`row ${position} has ${elements.length} elements of ${type}; this pair's vectors have ${state.info.d_model}`);
    return { position, id: null, text: `row ${position}`, special: false, content: true, role: null, norm: norm(elements) };
  });
}

/** @param {File | undefined} file */
async function take(file) {
  if (!file) return;
  try {
    fill(await readFile(file), file.name);
  } catch (error) {
    tell(problem, error);
  }
}

/**
 * @param {Given} given
 * @param {string} from
 */
function fill(given, from) {
  area.value = ""; // megabytes of base64 are nothing to look at
  say(`${given.vectors.length} rows: ${from}`);
  change({ given });
}

/** @param {string | null} what */
function say(what) {
  hint.textContent = what ?? `A vector a line: base64 of ${state.info.d_model} elements. Or drop a file; it is read in this browser alone.`;
}
