// @ts-check
/** Vectors out of a file, read in the browser: .npy, .npz, .safetensors and .json, rows of float16, float32 or float64. */

import { encode, ofBfloat16 } from "./vectors.js";

/**
 * @param {File} file
 * @returns {Promise<import("./store.js").Given>}
 */
export async function readFile(file) {
  const buffer = await file.arrayBuffer();
  const kind = file.name.split(".").at(-1)?.toLowerCase();
  if (kind === "npy") return rows(readNpy(buffer), file.name);
  if (kind === "npz") return rows(await firstOf(readZip(buffer)), file.name);
  if (kind === "safetensors") return rows(readSafetensors(buffer), file.name);
  if (kind === "json") return readJson(new TextDecoder().decode(buffer), file.name);
  throw new Error(`${file.name}: give a file that ends in .npy, .npz, .safetensors or .json`);
}

/** @typedef {{shape: number[], values: Float32Array}} Matrix */

/**
 * @param {Matrix} matrix
 * @param {string} name
 */
function rows({ shape, values }, name) {
  if (shape.length < 1 || shape.length > 2) throw new Error(`${name}: an array of shape [${shape}] is not rows of vectors`);
  const width = shape[shape.length - 1];
  const count = shape.length === 1 ? 1 : shape[0];
  const vectors = Array.from({ length: count }, (_, k) => encode(values.slice(k * width, (k + 1) * width)));
  return { vectors, dtype: "float32" };
}

/** @param {ArrayBuffer} buffer @returns {Matrix} */
function readNpy(buffer) {
  const view = new DataView(buffer);
  const long = view.getUint8(6) > 1;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = long ? 12 : 10;
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, start, length));
  const type = /'descr':\s*'([^']+)'/.exec(header)?.[1] ?? "";
  if (/'fortran_order':\s*True/.test(header)) throw new Error("an array in Fortran order: save it with numpy.ascontiguousarray");
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").filter((part) => part.trim()).map(Number);
  return { shape, values: floats(buffer.slice(start + length), type) };
}

/** @param {ArrayBuffer} buffer @returns {Matrix} */
function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = Object.entries(header).filter(([name]) => name !== "__metadata__");
  const found = tensors.find(([name]) => name === "vectors") ?? tensors.find(([, one]) => one.shape.length === 2) ?? tensors[0];
  if (!found) throw new Error("a file without a tensor");
  const { dtype, shape, data_offsets: [from, to] } = found[1];
  return { shape, values: floats(buffer.slice(8 + length + from, 8 + length + to), dtype) };
}

/** @param {ArrayBuffer} data @param {string} type of numpy or safetensors @returns {Float32Array} */
function floats(data, type) {
  switch (type) {
    case "<f4": case "F32": return new Float32Array(data, 0, data.byteLength >> 2);
    case "<f8": case "F64": return Float32Array.from(new Float64Array(data, 0, data.byteLength >> 3));
    // uint16 is the bits of bfloat16, as everywhere here.
    case "<u2": case "|V2": case "BF16": return ofBfloat16(new Uint16Array(data));
    case "<f2": case "F16": return Float32Array.from(new Uint16Array(data), half);
    default: throw new Error(`elements of type ${type}: float16, float32, float64 and bfloat16 are taken`);
  }
}

/** @param {number} bits of float16 */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
}

/** @param {AsyncGenerator<{name: string, data: ArrayBuffer}>} members */
async function firstOf(members) {
  /** @type {unknown} */
  let problem = new Error("an archive without an array");
  for await (const { name, data } of members) {
    try {
      const matrix = readNpy(data);
      if (matrix.shape.length === 2 || name.startsWith("vectors")) return matrix;
    } catch (error) {
      problem = error; // another array of the archive may be the vectors
    }
  }
  throw problem;
}

/** @param {ArrayBuffer} buffer */
async function* readZip(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("no zip archive");
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const packed = view.getUint16(at + 10, true) === 8;
    const size = view.getUint32(at + 20, true);
    const lengths = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const local = view.getUint32(at + 42, true);
    const name = new TextDecoder().decode(new Uint8Array(buffer, at + 46, lengths[0]));
    const from = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const stored = buffer.slice(from, from + size);
    yield { name, data: packed ? await unpacked(stored) : stored };
    at += 46 + lengths[0] + lengths[1] + lengths[2];
  }
}

/** @param {ArrayBuffer} data */
function unpacked(data) {
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer();
}

/** @param {string} text @param {string} name */
function readJson(text, name) {
  const read = JSON.parse(text);
  const list = Array.isArray(read) ? read : read.vectors;
  const many = typeof list?.[0] === "number" ? [list] : list;
  if (!Array.isArray(many)) throw new Error(`${name}: give a list of vectors, or {"vectors": [...]}`);
  if (typeof many[0] === "string") return { vectors: many, dtype: read.dtype ?? "bfloat16" };
  return { vectors: many.map((row) => encode(Float32Array.from(row))), dtype: "float32" };
}
