// @ts-check
/** Small things that panels share. Whatever comes from a model, a user or a file goes in as text, never as HTML. */

/**
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return /** @type {T} */ (found);
}

/**
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/**
 * Show a failure where it happened; null takes it away.
 * @param {HTMLElement} place
 * @param {unknown} problem
 */
export function tell(place, problem) {
  place.hidden = problem === null;
  place.textContent = problem === null ? "" : problem instanceof Error ? problem.message : String(problem);
}

/**
 * Run once nothing more has been asked for a while.
 * @param {() => void} run
 * @param {number} ms
 */
export function later(run, ms) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, ms);
  };
}

/**
 * Colour an element by a share of variance: 0 and below grey, 1 full.
 * @param {HTMLElement} element
 * @param {number | null} fve
 */
export function colour(element, fve) {
  element.style.setProperty("--share", Math.min(1, Math.max(0, fve ?? 0)).toFixed(3));
}

/**
 * @param {number | null | undefined} value
 * @param {number} [digits]
 */
export function figure(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
}

/** @param {import("./store.js").Score} score */
export function scores({ fve, mse, cosine }) {
  return `fve ${figure(fve)} · mse ${figure(mse, 3)} · cosine ${figure(cosine, 3)}`;
}

/** What a share of variance means, as under the tokens. @param {number | null} fve */
export function inWords(fve) {
  if (fve === null) return "";
  if (fve > 0.6) return "most of it · ";
  if (fve > 0.3) return "some of it · ";
  return fve > 0 ? "little of it · " : "nothing of it · ";
}
