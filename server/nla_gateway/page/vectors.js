// @ts-check
/** Vectors: between base64 and numbers, and the little arithmetic that the page does with them. */

/**
 * @param {string} text base64 of raw little-endian elements
 * @param {string} dtype "bfloat16" or "float32"
 * @returns {Float32Array}
 */
export function decode(text, dtype) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  if (dtype === "float32") return new Float32Array(bytes.buffer, 0, bytes.length >> 2);
  return ofBfloat16(new Uint16Array(bytes.buffer, 0, bytes.length >> 1));
}

/**
 * The upper half of a float32 is its bfloat16.
 * @param {Uint16Array} halves
 */
export function ofBfloat16(halves) {
  return new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer);
}

/**
 * @param {Float32Array} vector
 * @returns {string} base64 of float32
 */
export function encode(vector) {
  const bytes = new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength);
  let text = "";
  for (let from = 0; from < bytes.length; from += 0x8000) text += String.fromCharCode(...bytes.subarray(from, from + 0x8000));
  return btoa(text);
}

/** @param {Float32Array} vector */
export function norm(vector) {
  return Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
}

/**
 * base + alpha × |base| × unit(to − from), as `nla_client.directions.mix` does.
 * @param {Float32Array} base
 * @param {Float32Array} from
 * @param {Float32Array} to
 * @param {number} alpha
 */
export function mix(base, from, to, alpha) {
  const difference = to.map((value, k) => value - from[k]);
  const scale = (alpha * norm(base)) / norm(difference);
  return base.map((value, k) => value + scale * difference[k]);
}
