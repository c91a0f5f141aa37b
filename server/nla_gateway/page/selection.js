// @ts-check
/** Which tokens are chosen: no page in it, so that each rule can be read by itself. */

/** @typedef {import("./store.js").Token} Token */

/** So many are chosen at the start, at most. */
export const FEW = 16;

/**
 * What is chosen before anybody has: all if there are few, else the last of the content.
 * @param {Token[]} tokens
 */
export function sensible(tokens) {
  const some = tokens.length <= FEW ? tokens : content(tokens).slice(-FEW);
  return new Set(some.map((token) => token.position));
}

/**
 * @param {Token[]} tokens
 * @param {string} word "last", "content", "all" or "none"
 * @param {number} most the server's limit; of more the last ones are taken
 */
export function byWord(tokens, word, most) {
  if (word === "none") return new Set();
  const some = word === "last" ? tokens.slice(-1) : word === "content" ? content(tokens) : tokens;
  return new Set(some.slice(-most).map((token) => token.position));
}

/**
 * @param {Token[]} tokens
 * @returns {Token[]} those of the text itself; all where a template made the whole
 */
function content(tokens) {
  const own = tokens.filter((token) => token.content && !token.special);
  return own.length ? own : tokens;
}

/**
 * All from one to another, both with.
 * @param {number} one
 * @param {number} other
 */
export function range(one, other) {
  const from = Math.min(one, other);
  return new Set(Array.from({ length: Math.abs(one - other) + 1 }, (_, k) => from + k));
}

/**
 * @param {Set<number>} chosen
 * @param {number} position
 */
export function toggled(chosen, position) {
  const changed = new Set(chosen);
  if (!changed.delete(position)) changed.add(position);
  return changed;
}
