// @ts-check
/** The vectors of explained tokens, read when they are first needed, all in one request. */

import { ask } from "./api.js";
import { source } from "./input.js";
import { on, state } from "./store.js";

/** @type {Map<number, Promise<string>>} */
const read = new Map();

export function start() {
  on(["tokens"], () => read.clear());
}

/** In which elements `vectorOf` gives them. */
export function dtype() {
  return state.tab === "vectors" ? state.given.dtype : "float32";
}

/**
 * @param {number} position of an explained token
 * @returns {Promise<string>} base64
 */
export function vectorOf(position) {
  if (state.tab === "vectors") return Promise.resolve(state.given.vectors[position]);
  if (!read.has(position)) extract([...new Set([position, ...state.explained.keys()])].filter((one) => !read.has(one)));
  return /** @type {Promise<string>} */ (read.get(position));
}

/** @param {number[]} positions */
function extract(positions) {
  const answer = ask("extract", { ...source(), positions, dtype: dtype() });
  for (const position of positions) {
    const vector = answer.then(({ results }) =>
      results[0].tokens.find((/** @type {{position: number}} */ token) => token.position === position).vector);
    read.set(position, vector);
    vector.catch(() => read.delete(position)); // asked again when it is needed again
  }
}
