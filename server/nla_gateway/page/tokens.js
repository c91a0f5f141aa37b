// @ts-check
/** The tokens as chips in a listbox: shown, coloured, chosen by pointer and keyboard. */

import { reveal } from "./cards.js";
import { byId, colour, figure, make } from "./dom.js";
import { settled } from "./input.js";
import { byWord, range, toggled } from "./selection.js";
import { measure, on, ranked, set, share, state } from "./store.js";

/** @typedef {import("./store.js").Token} Token */

/** Chips in a block: those out of sight cost nothing. */
const BLOCK = 200;
const AT_ONCE = 4;
const list = byId("tokens");
/** @type {Map<number, HTMLElement>} */
const chips = new Map();
/** @type {Set<number>} */
let shown = new Set();
let anchor = 0;
let cursor = 0;
let dragging = false;
let pressed = false;
let rendering = 0;

export function start() {
  on(["tokens"], () => {
    cursor = anchor = state.tokens.at(-1)?.position ?? 0;
    render();
  });
  on(["chosen"], select);
  on(["explained"], paintAll);
  list.addEventListener("pointerdown", press);
  list.addEventListener("pointerover", drag);
  list.addEventListener("click", tap);
  addEventListener("pointerup", release);
  list.addEventListener("keydown", key);
  byId("choices").addEventListener("click", (event) => void choose(/** @type {HTMLElement} */ (event.target).dataset.choice));
  byId("white-space").addEventListener("change", (event) => {
    list.classList.toggle("white", /** @type {HTMLInputElement} */ (event.target).checked);
    render();
  });
  byId("measure").textContent = measure() === "fve"
    ? "Colour and number, fve: how much of a token's numbers the words brought back. 1 is all of it, above 0.6 most, above 0.3 some, above 0 little. 0 is as if nothing were known of the token, below is wrong."
    : "Colour and number: cosine, 1 for the same direction (this pair has no baseline for fve).";
}

/** Of the tokens of what is read now, also where they are yet to come. @param {string | undefined} word */
async function choose(word) {
  if (!word) return;
  await settled();
  set({ chosen: byWord(state.tokens, word, most()) });
}

/** How many may be explained in one request. */
export function most() {
  const { max_positions: positions, max_batch: batch, max_samples: samples } = state.info.limits;
  return Math.max(1, Math.min(state.tab === "vectors" ? batch : positions, Math.floor(samples / state.settings.n)));
}

function render() {
  byId("kinds").hidden = state.tokens.every((token) => token.content && !token.special);
  chips.clear();
  list.replaceChildren();
  select();
  more(++rendering, 0);
}

/**
 * Some blocks at a time, so that nothing waits for a long text.
 * @param {number} turn of which text
 * @param {number} from
 */
function more(turn, from) {
  if (turn !== rendering) return;
  const visible = list.classList.contains("white");
  const until = from + AT_ONCE * BLOCK;
  for (let start = from; start < Math.min(until, state.tokens.length); start += BLOCK) {
    const block = make("div", { role: "presentation" });
    for (const token of state.tokens.slice(start, start + BLOCK)) {
      block.append(chip(token, visible));
      paint(token.position);
    }
    list.append(block);
  }
  if (until < state.tokens.length) setTimeout(() => more(turn, until));
  else point();
}

/**
 * @param {Token} token
 * @param {boolean} visible whether white space is
 */
function chip(token, visible) {
  const kind = token.special ? "special" : token.content ? "" : "template";
  const selected = String(state.chosen.has(token.position));
  const made = make("span", { role: "option", id: `token-${token.position}`, class: `token ${kind}`, "aria-selected": selected });
  made.title = kind ? `${token.position}, of the ${kind === "special" ? "tokenizer" : "template"}` : `${token.position}`;
  made.dataset.position = `${token.position}`;
  if (visible) {
    const text = token.text.replaceAll(" ", "·").replaceAll("\n", "↵\n").replaceAll("\t", "→");
    for (const piece of text.split(/([·↵→]+)/)) made.append(/[·↵→]/.test(piece) ? make("span", { class: "blank" }, piece) : piece);
  } else made.textContent = continues(token) ? "⋯" : token.text || "∅";
  name(made, token);
  chips.set(token.position, made);
  return made;
}

/** Whether a token is a further piece of the character that the one before it began. @param {Token} token */
function continues(token) {
  const before = state.tokens[token.position - 1];
  return token.start !== undefined && before?.start === token.start && before.text === token.text && token.text !== "";
}

/**
 * What a screen reader says of a chip.
 * @param {HTMLElement} made
 * @param {Token} token
 */
function name(made, token) {
  const kind = token.special ? ", special" : token.content ? "" : ", template";
  const score = made.dataset.fve ? `, ${measure()} ${made.dataset.fve}` : "";
  made.setAttribute("aria-label", `${token.text.trim() || "white space"}${kind}${score}`);
}

function select() {
  for (const position of shown) if (!state.chosen.has(position)) chips.get(position)?.setAttribute("aria-selected", "false");
  for (const position of state.chosen) if (!shown.has(position)) chips.get(position)?.setAttribute("aria-selected", "true");
  shown = new Set(state.chosen);
  const limit = most();
  const over = state.chosen.size > limit ? `; at most ${limit} a request, the last ones are taken` : ` (at most ${limit})`;
  const text = state.tokens.length ? `${state.chosen.size} of ${state.tokens.length} chosen${over}` : "";
  if (!dragging) byId("chosen").textContent = text;
}

function paintAll() {
  for (const [position, made] of chips) {
    if (!made.dataset.fve || state.explained.has(position)) continue;
    delete made.dataset.fve;
    name(made, state.tokens[position]);
  }
  for (const position of state.explained.keys()) paint(position);
}

/**
 * Colour a chip by the best of its samples.
 * @param {number} position
 */
export function paint(position) {
  const made = chips.get(position);
  const found = state.explained.get(position);
  const score = found && ranked(found)[0]?.score;
  if (!made || !score) return;
  made.dataset.fve = figure(share(score));
  colour(made, share(score));
  name(made, state.tokens[position]);
}

/** @param {Event} event */
function positionOf(event) {
  const found = /** @type {HTMLElement} */ (event.target).closest?.("[data-position]");
  return found ? Number(/** @type {HTMLElement} */ (found).dataset.position) : null;
}

/** @param {PointerEvent} event */
function press(event) {
  const position = positionOf(event);
  // A finger that comes down may be about to scroll: its click counts.
  pressed = position !== null && event.button === 0 && event.pointerType !== "touch";
  if (!pressed || position === null) return;
  const one = event.ctrlKey || event.metaKey;
  dragging = !one && !event.shiftKey;
  if (event.shiftKey) set({ chosen: range(anchor, position) });
  else set({ chosen: one ? toggled(state.chosen, position) : new Set([position]) });
  if (!event.shiftKey) anchor = position;
  move(position);
}

/** Of a finger, or of what reads the page for somebody. @param {Event} event */
function tap(event) {
  const position = positionOf(event);
  if (position === null || pressed) return void (pressed = false);
  const looking = state.explained.has(position) && position !== state.at; // a second tap chooses
  if (!looking) set({ chosen: toggled(state.chosen, position) });
  move((anchor = position));
  if (looking) reveal(position);
}

/** @param {PointerEvent} event */
function drag(event) {
  const position = positionOf(event);
  if (dragging && position !== null && event.buttons) set({ chosen: range(anchor, position) });
}

function release() {
  if (!dragging) return;
  dragging = false;
  select();
}

/** @param {KeyboardEvent} event */
function key(event) {
  const last = state.tokens.length - 1;
  if (last < 0) return;
  /** @type {Record<string, () => number>} */
  const steps = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: () => below(1), ArrowUp: () => below(-1),
    Home: () => -cursor, End: () => last - cursor };
  const step = steps[event.key];
  if (step) {
    const to = Math.min(last, Math.max(0, cursor + step()));
    if (event.shiftKey) set({ chosen: range(anchor, to) });
    else anchor = to;
    move(to);
  } else if (event.key === "Enter") set({ chosen: new Set([(anchor = cursor)]) });
  else if (event.key === " ") set({ chosen: toggled(state.chosen, (anchor = cursor)) });
  else if (event.key === "a" && (event.ctrlKey || event.metaKey)) set({ chosen: byWord(state.tokens, "all", most()) });
  else return;
  event.preventDefault();
}

/**
 * How many tokens further the next line has one at about the same place.
 * @param {1 | -1} direction
 */
function below(direction) {
  const from = chips.get(cursor)?.getBoundingClientRect();
  if (!from) return 0;
  for (let to = cursor + direction; to >= 0 && to < state.tokens.length; to += direction) {
    const box = chips.get(to)?.getBoundingClientRect();
    if (!box || Math.abs(to - cursor) > BLOCK) break;
    const beyond = direction > 0 ? box.top >= from.bottom - 2 && box.right >= from.left : box.bottom <= from.top + 2 && box.left <= from.right;
    if (beyond) return to - cursor;
  }
  return 0;
}

/** @param {number} position */
function move(position) {
  chips.get(cursor)?.classList.remove("at");
  cursor = position;
  point();
  chips.get(position)?.scrollIntoView({ block: "nearest" });
  set({ at: position, looked: state.looked + 1 });
}

/** Mark the token that the keyboard is at. */
function point() {
  const made = chips.get(cursor);
  made?.classList.add("at");
  if (made) list.setAttribute("aria-activedescendant", made.id);
  else list.removeAttribute("aria-activedescendant");
}
