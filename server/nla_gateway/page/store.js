// @ts-check
/** What is shown, in one place: panels read it, change it by `set`, and are told of what they asked for by `on`. */

/**
 * @typedef {{mse: number, cosine: number, fve: number | null}} Score
 * @typedef {{text: string, start: number, end: number, without: Score, upto: Score}} Part
 * @typedef {{text: string, complete: boolean, finish_reason: string | null, score: Score | null, running?: boolean,
 *   parts?: Part[], whole?: Score}} Sample
 * @typedef {{position: number, id: number | null, text: string, start?: number, special: boolean, content: boolean,
 *   role: string | null, norm?: number, remark?: string | null}} Token
 * @typedef {{token: Token, samples: Sample[], problem: string | null, own: string, asked: string}} Explained
 * @typedef {{role: string, content: string}} Message
 * @typedef {{vectors: string[], dtype: string}} Given
 * @typedef {"text" | "chat" | "vectors"} Tab
 * @typedef {{n: number, temperature: number, seed: number | null}} Settings
 * @typedef {Object} State
 * @property {any} info what `/v1/info` says
 * @property {Tab} tab
 * @property {string} text
 * @property {Message[]} messages
 * @property {boolean} generationPrompt
 * @property {Given} given vectors, as they are sent
 * @property {number} edits how often what is read was changed
 * @property {Token[]} tokens
 * @property {Set<number>} chosen positions
 * @property {Map<number, Explained>} explained by position
 * @property {number} built how often cards were built after what they are about was told
 * @property {Settings} settings
 * @property {boolean} running
 * @property {number} at the position that is looked at
 * @property {number} looked how often somebody went to a token, among the tokens
 */

/** @type {State} */
export const state = {
  info: null,
  tab: "text",
  text: "The doctor listened to her heart and said that she would need to rest for a week.",
  messages: [{ role: "user", content: "What is the capital of France?" }],
  generationPrompt: true,
  given: { vectors: [], dtype: "bfloat16" },
  edits: 0,
  tokens: [],
  chosen: new Set(),
  explained: new Map(),
  built: 0,
  settings: { n: 1, temperature: 0, seed: 0 },
  running: false,
  at: 0,
  looked: 0,
};

/** @type {Map<keyof State, Set<() => void>>} */
const listeners = new Map();

/**
 * Change some of it.
 * @param {Partial<State>} changes
 */
export function set(changes) {
  Object.assign(state, changes);
  const told = new Set();
  for (const name of /** @type {(keyof State)[]} */ (Object.keys(changes)))
    for (const listener of listeners.get(name) ?? []) told.add(listener);
  for (const listener of told) listener();
}

/**
 * Be told when any of these change.
 * @param {(keyof State)[]} names
 * @param {() => void} listener
 */
export function on(names, listener) {
  for (const name of names) {
    if (!listeners.has(name)) listeners.set(name, new Set());
    listeners.get(name)?.add(listener);
  }
}

/** Whether texts can be scored: there is a reconstructor, and its pair says at which norm. */
export function scorable() {
  return state.info.reconstructor !== null && state.info.reconstructor.mse_scale !== null;
}

/** What colours and orders: fve, or the cosine where the pair has no baseline for it. */
export function measure() {
  return state.info.predict_mean_mse === null ? "cosine" : "fve";
}

/** @param {Score} score */
export function share(score) {
  return score.fve ?? score.cosine;
}

/** The samples, the best first. @param {Explained} found */
export function ranked(found) {
  return [...found.samples].sort((one, other) => (one.score?.mse ?? 9) - (other.score?.mse ?? 9));
}
