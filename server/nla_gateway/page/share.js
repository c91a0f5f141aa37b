// @ts-check
/** Taking it away: a link, files, and the request as a command. */

import { hasKey, named, pair } from "./api.js";
import { byId, tell } from "./dom.js";
import { asked, request } from "./explain.js";
import { set, state } from "./store.js";

const LONGEST_ARGUMENT = 100_000;
export const LONGEST_LINK = 200_000;
const told = byId("taken");

export function start() {
  byId("copy-link").addEventListener("click", () => void copyLink());
  byId("as-curl").addEventListener("click", () => command(asCurl()));
  byId("as-python").addEventListener("click", () => command(asPython()));
  byId("as-json").addEventListener("click", () => save("explanations.json", JSON.stringify(whole(), null, 2)));
  byId("as-lines").addEventListener("click", () => save("explanations.jsonl", lines()));
}

/**
 * Take over what a link says, before anything is shown.
 * @returns {string | null} what was wrong with it
 */
export function restore() {
  addEventListener("hashchange", () => location.reload()); // a link pasted into the open page
  if (location.hash.length < 2) return null;
  try {
    const read = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    const { n, temperature, seed } = { ...state.settings, ...read.settings };
    set({
      tab: ["text", "chat", "vectors"].includes(read.tab) ? read.tab : state.tab,
      text: typeof read.text === "string" ? read.text : state.text,
      messages: Array.isArray(read.messages) ? read.messages.map(message) : state.messages,
      generationPrompt: read.generationPrompt !== false,
      given: Array.isArray(read.given?.vectors) ? { vectors: read.given.vectors.map(String), dtype: String(read.given.dtype) } : state.given,
      chosen: new Set((read.chosen ?? []).map(Number)),
      settings: { n: Math.min(state.info.limits.max_n, Math.max(1, Number(n) || 1)), temperature: Number(temperature) || 0,
        seed: seed === null ? null : Number(seed) || 0 },
    });
    return null;
  } catch {
    return "The link could not be read: it may have been cut.";
  }
}

/** @param {{role: unknown, content: unknown}} read */
function message({ role, content }) {
  return { role: String(role), content: String(content) };
}

/** What a link to a text keeps, whichever pair reads it. */
export function kept() {
  const { tab, text, messages, generationPrompt, settings } = state;
  return { tab, text, messages, generationPrompt, settings };
}

async function copyLink() {
  const more = { chosen: [...state.chosen], ...(state.tab === "vectors" ? { given: state.given } : {}) };
  const fragment = encodeURIComponent(JSON.stringify({ ...kept(), ...more }));
  if (fragment.length > LONGEST_LINK) return tell(told, "This is too much for a link: save it as JSON.");
  const link = new URL(location.href);
  if (pair.name !== null) link.searchParams.set("model", pair.name);
  link.hash = fragment;
  history.replaceState(null, "", link);
  tell(told, await copied(link.href) ? "The link is copied. It holds what is read; the server never sees that part of it."
    : "The link is in the address bar.");
}

/** @param {string} text */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no permission, or no secure page
  }
}

/** @param {string} text */
async function command(text) {
  const place = byId("command");
  place.textContent = text;
  place.hidden = false;
  tell(told, await copied(text) ? "Copied." : "Copy it from here.");
}

/** @param {string} path */
function address(path) {
  return new URL(path, document.baseURI).href;
}

function asCurl() {
  const { path, body: unnamed } = request(asked());
  const body = named(unnamed);
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = hasKey() ? ` -H "authorization: Bearer $NLA_API_KEY"` : "";
  const long = text.length > LONGEST_ARGUMENT; // Linux takes no longer word of a command
  const data = long ? ` --data-binary @- <<'EOF'\n${JSON.stringify(body)}\nEOF` : ` -d '${text}'`;
  return `curl -s ${address(path)} -H 'content-type: application/json'${key}${data}`;
}

function asPython() {
  const { path, body } = request(asked());
  const { texts, chats, vectors, dtype, ...rest } = /** @type {Record<string, any>} */ (body);
  const given = Object.entries(rest).map(([name, value]) => `${name}=${python(value)}`).join(", ");
  const model = pair.name === null ? "" : `, model=${python(pair.name)}`;
  const head = `from nla_client import NLAClient\n\nnla = NLAClient(${JSON.stringify(new URL(".", document.baseURI).href.replace(/\/$/, ""))}${model})\n`;
  if (path === "explain") {
    return `${head}told = nla.explain(${python(texts?.[0] ?? chats[0])}, ${given})\nfor token in told.tokens:\n    print(token.position, token.explanation)\n`;
  }
  const type = dtype === "float32" ? "np.float32" : "np.uint16";
  return `import base64\nimport numpy as np\n${head}rows = ${python(vectors)}\n`
    + `vectors = np.stack([np.frombuffer(base64.b64decode(row), ${type}) for row in rows])\n`
    + `for one in nla.verbalize(vectors, dtype=${python(dtype)}, ${given}):\n    print(one.text)\n`;
}

/** @param {unknown} value @returns {string} */
function python(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value ?? {}).map(([name, one]) => `${python(name)}: ${python(one)}`).join(", ")}}`;
  return JSON.stringify(value);
}

/** What is here, as it was asked and answered. */
function whole() {
  const { path, body } = request(asked());
  const { verbalizer, reconstructor, source, layer } = state.info;
  return { asked: { path, body: named(body) }, models: { verbalizer, reconstructor, source, layer }, explanations: [...rowsOf()] };
}

/** A row a sample. */
function* rowsOf() {
  for (const { token, samples } of state.explained.values())
    for (const [sample, { text, complete, finish_reason, score }] of samples.entries()) {
      const { position, text: piece, norm = null, remark = null } = token;
      yield { position, token: piece, norm, remark, sample, explanation: text, complete, finish_reason,
        mse: score?.mse ?? null, cosine: score?.cosine ?? null, fve: score?.fve ?? null };
    }
}

function lines() {
  return [...rowsOf()].map((row) => `${JSON.stringify(row)}\n`).join("");
}

/**
 * @param {string} name
 * @param {string} text
 */
function save(name, text) {
  if (!state.explained.size) return tell(told, "Nothing is explained yet.");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // Safari reads it later
  tell(told, `${name} is saved.`);
}
