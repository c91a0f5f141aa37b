// @ts-check
/** What is read: a text, a chat, or vectors; each in a tab, each made into tokens. */

import { ask } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { sensible } from "./selection.js";
import { set, state } from "./store.js";
import * as rows from "./rows.js";

/** @typedef {import("./store.js").Tab} Tab */

const PAUSE_MS = 250;
/** @type {Tab[]} */
const TABS = ["text", "chat", "vectors"];
const ROLES = ["system", "user", "assistant"];
const area = /** @type {HTMLTextAreaElement} */ (byId("text"));
const problem = byId("input-problem");
/** What a tab showed when it was left. @type {Map<Tab, {read: string} & Pick<import("./store.js").State, "tokens" | "chosen" | "explained">>} */
const left = new Map();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let turn = 0;
/** @type {Promise<void>} */
let known = Promise.resolve();

export async function start() {
  const source = state.info.source !== null;
  for (const name of TABS) {
    const tab = /** @type {HTMLButtonElement} */ (byId(`tab-${name}`));
    tab.addEventListener("click", () => open(name));
    tab.addEventListener("keydown", along);
    tab.disabled = name !== "vectors" && !source;
  }
  byId("no-source").hidden = source;
  area.value = state.text;
  area.addEventListener("input", () => edited({ text: area.value }));
  byId("add-message").addEventListener("click", addMessage);
  const begins = /** @type {HTMLInputElement} */ (byId("generation-prompt"));
  begins.checked = state.generationPrompt;
  begins.addEventListener("change", () => edited({ generationPrompt: begins.checked }));
  renderMessages();
  rows.start(edited, problem);
  show(source ? state.tab : "vectors");
  known = tokenize(state.chosen); // of a link
  await known;
}

/**
 * The request's part that says what is read.
 * @returns {Record<string, unknown>}
 */
export function source() {
  if (state.tab === "text") return { texts: [state.text] };
  return { chats: [state.messages], add_generation_prompt: state.generationPrompt };
}

/** Wait until tokens are those of what is read now. */
export function settled() {
  if (timer !== undefined) {
    clearTimeout(timer);
    timer = undefined;
    known = tokenize();
  }
  return known;
}

/**
 * Take over a change of what is read; its tokens come after a pause.
 * @param {Partial<import("./store.js").State>} changes
 */
function edited(changes) {
  set({ ...changes, edits: state.edits + 1 });
  clearTimeout(timer);
  timer = setTimeout(() => void settled(), PAUSE_MS);
}

/** @param {Tab} name */
function show(name) {
  for (const one of TABS) {
    const tab = byId(`tab-${one}`);
    tab.setAttribute("aria-selected", String(one === name));
    tab.tabIndex = one === name ? 0 : -1;
    byId(`panel-${one}`).hidden = one !== name;
  }
  set({ tab: name });
}

/** @param {Tab} name */
async function open(name) {
  if (name === state.tab) return;
  await settled();
  const { tokens, chosen, explained } = state;
  if (problem.hidden) left.set(state.tab, { read: read(), tokens, chosen, explained });
  else left.delete(state.tab); // its tokens are not those of what is read
  tell(problem, null);
  set({ edits: state.edits + 1 });
  show(name);
  const before = left.get(name);
  if (before?.read === read()) set({ tokens: before.tokens, chosen: before.chosen, explained: before.explained });
  else {
    set({ tokens: [], chosen: new Set(), explained: new Map() });
    await (known = tokenize());
  }
}

function read() {
  return JSON.stringify(state.tab === "vectors" ? state.given : source());
}

/** @param {KeyboardEvent} event */
function along(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const usable = TABS.filter((name) => !(/** @type {HTMLButtonElement} */ (byId(`tab-${name}`)).disabled));
  const next = usable[(usable.indexOf(state.tab) + step + usable.length) % usable.length];
  byId(`tab-${next}`).focus();
  void open(next);
}

/** @param {Set<number>} [chosen] instead of what is sensible */
async function tokenize(chosen) {
  const mine = ++turn;
  /** @type {import("./store.js").Token[]} */
  let tokens = [];
  try {
    if (state.tab === "vectors") tokens = rows.tokens();
    else if (state.tab === "chat" || state.text) tokens = (await ask("tokenize", source())).results[0].tokens;
  } catch (error) {
    if (mine === turn) tell(problem, error); // what was there stays
    return;
  }
  if (mine !== turn) return; // something newer was typed
  tell(problem, null);
  const kept = [...(chosen ?? [])].filter((position) => position < tokens.length);
  set({ tokens, explained: new Map(), chosen: kept.length ? new Set(kept) : sensible(tokens) });
}

function renderMessages() {
  const items = state.messages.map((message, index) => {
    const role = /** @type {HTMLSelectElement} */ (make("select", { "aria-label": `Role of message ${index + 1}` }));
    for (const name of new Set([...ROLES, message.role])) role.append(make("option", {}, name));
    role.value = message.role;
    const content = /** @type {HTMLTextAreaElement} */ (make("textarea", { "aria-label": `Message ${index + 1}`, rows: "2" }));
    content.value = message.content;
    const changed = () => {
      const messages = [...state.messages];
      messages[index] = { role: role.value, content: content.value };
      edited({ messages });
    };
    role.addEventListener("change", changed);
    content.addEventListener("input", changed);
    const remove = make("button", { type: "button", "aria-label": `Remove message ${index + 1}` }, "×");
    remove.addEventListener("click", () => {
      edited({ messages: state.messages.filter((_, other) => other !== index) });
      renderMessages();
      byId("add-message").focus();
    });
    return make("li", {}, role, content, remove);
  });
  byId("messages").replaceChildren(...items);
}

function addMessage() {
  const role = state.messages.at(-1)?.role === "user" ? "assistant" : "user";
  edited({ messages: [...state.messages, { role, content: "" }] });
  renderMessages();
  /** @type {HTMLElement | null} */ (byId("messages").querySelector("li:last-child textarea"))?.focus();
}
