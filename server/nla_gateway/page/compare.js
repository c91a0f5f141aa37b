// @ts-check
/** All chosen texts against all chosen tokens, as a small heat map: a good explanation is brightest at its own token. */

import { ask } from "./api.js";
import { byId, colour, figure, make, tell } from "./dom.js";
import { dtype, vectorOf } from "./reading.js";
import { measure, on, ranked, scorable, state } from "./store.js";

/** Rows and columns, at most: more are too small to read. */
const MOST = 40;
const problem = byId("compare-problem");
const place = byId("heat");
let turn = 0;

export function start() {
  byId("compare").addEventListener("click", () => void compare());
  byId("comparing").hidden = !scorable();
  on(["explained"], () => {
    turn += 1;
    tell(problem, null);
    place.replaceChildren();
  });
}

async function compare() {
  const mine = ++turn;
  const explained = [...state.explained.values()].filter((found) => ranked(found)[0]?.text);
  const chosen = explained.filter((found) => state.chosen.has(found.token.position));
  const told = chosen.length < 2 ? explained : chosen; // one that is looked at is no choice
  const compared = told.slice(0, MOST);
  if (compared.length < 2) return tell(problem, "Explain at least two tokens first.");
  tell(problem, null);
  const tokens = compared.map((found) => found.token);
  try {
    const vectors = await Promise.all(tokens.map((token) => vectorOf(token.position)));
    const texts = compared.map((found) => ranked(found)[0].text);
    const answer = await ask("critic", { texts, vectors, dtype: dtype(), pairs: "all" });
    if (mine === turn) place.replaceChildren(...shown(tokens, answer.fve ?? answer.cosine, told.length));
  } catch (error) {
    if (mine === turn) tell(problem, error);
  }
}

/**
 * @param {import("./store.js").Token[]} tokens
 * @param {number[][]} shares texts by vectors
 * @param {number} whole how many there would be
 */
function shown(tokens, shares, whole) {
  const label = (/** @type {import("./store.js").Token} */ token) => `${token.position} ${token.text.trim()}`;
  const right = shares.filter((row, k) => row[k] === Math.max(...row)).length;
  const unexplained = [...state.chosen].filter((position) => !state.explained.has(position)).length;
  const cut = (whole > tokens.length ? ` The first ${tokens.length} of ${whole} are shown.` : "")
    + (unexplained ? ` Not explained, and left out: ${unexplained} of those chosen.` : "");
  const caption = `A row an explanation, a column a token: ${measure()}. ${right} of ${tokens.length} explanations fit their own`
    + ` token best.${cut}`;
  const swipe = make("span", { class: "narrow" }, " Swipe to see all columns.");
  const head = make("tr", {}, make("td"), ...tokens.map((token) => make("th", { scope: "col" }, label(token))));
  const rows = shares.map((row, k) => make("tr", {}, make("th", { scope: "row" }, label(tokens[k])), ...row.map((share, j) => {
    const cell = make("td", j === k ? { class: "own-token" } : {}, figure(share, 1));
    colour(cell, share);
    return cell;
  })));
  const table = make("table", { "aria-describedby": "heat-caption" }, make("thead", {}, head), make("tbody", {}, ...rows));
  return [make("p", { id: "heat-caption", class: "hint" }, caption, swipe), make("div", { class: "wide-scroll", tabindex: "0", role: "region",
    "aria-label": "Texts against tokens" }, table)];
}
