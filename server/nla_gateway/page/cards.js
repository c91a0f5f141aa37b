// @ts-check
/** A card a token: what was said and how well it scores; see carrying.js and own.js for what else is on it. */

import { carries } from "./carrying.js";
import { byId, colour, figure, inWords, make, scores } from "./dom.js";
import { own } from "./own.js";
import { measure, on, ranked, set, share, state } from "./store.js";

/** @typedef {import("./store.js").Explained} Explained */
/** @typedef {import("./store.js").Sample} Sample */
/** @typedef {{card: HTMLElement, said: HTMLElement, remark: HTMLElement, found: Explained}} Card */

const region = byId("explanations");
/** As long as cards are built or drawn in one go: what a person does comes between. */
const AT_ONCE_MS = 10;
const WIDE = matchMedia("(min-width: 60rem)");
/** @type {Map<number, Card>} */
const cards = new Map();
/** Positions that are drawn in the next frames. @type {Set<number>} */
const stale = new Set();
let filling = 0;

export function start() {
  on(["explained"], renderAll);
  on(["at"], mark);
  on(["looked"], bring);
  byId("to-explained").addEventListener("click", () => byId("explained").focus());
}

/**
 * Make room for what is to come.
 * @param {number[]} positions
 * @param {number} n
 * @param {string} asked with which settings
 */
export function begin(positions, n, asked) {
  const explained = new Map(state.explained);
  for (const position of positions) {
    const blank = () => ({ text: "", complete: true, finish_reason: null, score: null, running: true });
    const own = state.explained.get(position)?.own ?? "";
    const samples = Array.from({ length: n }, blank);
    explained.set(position, { token: { ...state.tokens[position] }, samples, problem: null, own, asked });
  }
  set({ explained: new Map([...explained].sort(([a], [b]) => a - b)) });
}

/**
 * Draw a card anew, once a frame however much comes.
 * @param {number} position
 */
export function show(position) {
  if (!stale.size) requestAnimationFrame(drawSome);
  stale.add(position);
}

function drawSome() {
  const until = performance.now() + AT_ONCE_MS;
  for (const position of stale) {
    stale.delete(position);
    draw(position);
    if (performance.now() > until) break;
  }
  if (stale.size) requestAnimationFrame(drawSome);
}

/** The cards, for those who order and filter them. */
export function all() {
  return [...cards].map(([position, { card }]) => ({ position, card }));
}

function renderAll() {
  for (const [position, { card, found }] of cards) {
    if (state.explained.get(position) === found) continue;
    card.remove();
    cards.delete(position);
  }
  byId("nothing").hidden = state.explained.size > 0;
  byId("guesses").hidden = !state.info.verbalizer || state.explained.size === 0;
  byId("to-explained").hidden = state.explained.size === 0;
  fill(++filling);
}

/**
 * Build the cards that are not there yet, some at a time.
 * @param {number} turn of which change
 * @param {boolean} [again] whether this goes on with it
 */
function fill(turn, again = false) {
  if (turn !== filling) return;
  const until = performance.now() + AT_ONCE_MS;
  /** @type {HTMLElement} */
  let before = byId("guesses");
  for (const [position, found] of state.explained) {
    if (!cards.has(position)) {
      if (performance.now() > until) return void setTimeout(() => fill(turn, true));
      cards.set(position, build(position, found));
      draw(position);
    }
    const { card } = /** @type {Card} */ (cards.get(position));
    if (before.nextElementSibling !== card) before.after(card);
    before = card;
  }
  mark();
  if (again) set({ built: state.built + 1 });
}

/**
 * @param {number} position
 * @param {Explained} found
 * @returns {Card}
 */
function build(position, found) {
  const name = found.token.text.trim() || "white space";
  const said = make("div", { class: "samples" });
  const remark = make("p", { class: "hint" });
  const back = make("button", { type: "button", class: "narrow" }, "Back to the tokens");
  back.addEventListener("click", () => {
    byId("tokens").focus({ preventScroll: true });
    document.getElementById(`token-${position}`)?.scrollIntoView({ block: "center" });
  });
  const card = make("article", { "aria-label": `Token ${position}: ${name}` },
    make("div", { class: "row head" }, make("h3", {}, `${position} `, make("code", {}, found.token.text)), back), said, remark);
  if (state.info.reconstructor) card.append(own(position, found));
  const look = () => state.at !== position && set({ at: position });
  card.addEventListener("pointerenter", look);
  card.addEventListener("focusin", look);
  carries(card, position, () => draw(position));
  return { card, said, remark, found };
}

function mark() {
  for (const [position, { card }] of cards) card.classList.toggle("at", position === state.at);
}

/** Show the card of the token that somebody went to, where the tokens stay in sight: only the other column moves. */
function bring() {
  const card = cards.get(state.at)?.card;
  if (card && WIDE.matches) byId("explained").scrollTop = card.offsetTop - region.offsetTop;
}

/**
 * Show a card wherever it is.
 * @param {number} position
 */
export function reveal(position) {
  if (!WIDE.matches) cards.get(position)?.card.scrollIntoView();
}

/** @param {number} position */
function draw(position) {
  const found = state.explained.get(position);
  const at = cards.get(position);
  if (!found || !at) return;
  const { norm, remark } = found.token;
  const alone = found.samples.length || norm === undefined ? "" : `Norm ${figure(norm, 1)}.`;
  at.remark.textContent = [remark ? `Read with care: ${remark}.` : "", alone].join(" ").trim();
  at.card.classList.toggle("writing", found.samples.some((sample) => sample.running));
  at.said.replaceChildren(...ranked(found).map((sample) => drawn(sample, norm)));
  if (found.problem) at.said.append(make("p", { class: "problem" }, found.problem));
}

/**
 * @param {Sample} sample
 * @param {number | undefined} norm
 */
function drawn(sample, norm) {
  const text = make("p", { class: "text" });
  if (sample.parts?.length) text.append(...shaded(sample));
  else text.textContent = sample.text || (sample.running ? "…" : "");
  const figures = make("p", { class: "figures" });
  if (sample.score) {
    const fill = make("i");
    fill.style.width = `${Math.min(1, Math.max(0, share(sample.score))) * 100}%`;
    figures.append(make("span", { class: "bar", "aria-hidden": "true" }, fill), ` ${inWords(sample.score.fve)}${scores(sample.score)}`);
  }
  if (norm !== undefined) figures.append(`${sample.score ? " · " : ""}norm ${figure(norm, 1)}`);
  if (!sample.running && sample.finish_reason === null) figures.append(" stopped before its end");
  else if (!sample.complete) figures.append(" incomplete: it has no closing tag");
  return make("div", {}, text, figures);
}

/** The text with each part over a line that is the stronger the more is lost without it. @param {Sample} sample */
function* shaded(sample) {
  const characters = [...sample.text]; // the server counts whole ones, not halves of pairs
  const whole = sample.whole ? share(sample.whole) : 0;
  let end = 0;
  for (const { text, start, end: next, without, upto } of sample.parts ?? []) {
    yield document.createTextNode(characters.slice(end, start).join(""));
    const lost = Number((whole - share(without)).toFixed(2));
    const span = make("span", { class: "part", tabindex: "0" }, text);
    const changed = lost ? `${figure(Math.abs(lost))} ${lost < 0 ? "more" : "less"}` : "as much";
    span.title = `${measure()} without this: ${figure(share(without))}, ${changed}; with what stands up to here alone: ${figure(share(upto))}`;
    colour(span, whole > 0 ? lost / whole : 0);
    yield span;
    end = next;
  }
  yield document.createTextNode(characters.slice(end).join(""));
}
