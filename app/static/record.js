// The record inside a picture that was drawn here: what it was asked for by.
// Knows where PNG, JPEG and WebP files keep it; refuses to know what it says. Whatever is odd is no record.

import { readJson } from "./api.js";

const KEYWORD = "darkroom";
/** Of the PNG text chunk. */
const XMP_NAMESPACE = "urn:darkroom:1.0/";
/** Of the element, or attribute, `record` in the XMP packet of a JPEG or WebP. */
const XMP_MARK = "http://ns.adobe.com/xap/1.0/\0";
const MOST_BYTES = 64 * 1024 * 1024;
const MOST_LETTERS = 60_000;

/** The record of a file, null where there is none. */
export async function recordOf(file) {
  if (file.size > MOST_BYTES) return null;
  try {
    const note = await noteIn(new Uint8Array(await file.arrayBuffer()));
    const record = note && note.length <= MOST_LETTERS ? readJson(note) : null;
    return typeof record?.prompt === "string" ? record : null;
  } catch {
    return null;
  }
}

async function noteIn(bytes) {
  if (latin(bytes, 1, 4) === "PNG") return textIn(bytes);
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return inXmp(packetInJpeg(bytes));
  if (latin(bytes, 8, 12) === "WEBP") return inXmp(packetInWebp(bytes));
  return null;
}

/** PNG (third edition), 11.3.3: our iTXt chunk, or the tEXt or zTXt that another program may have made of it. */
async function textIn(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const kind = latin(bytes, at + 4, at + 8);
    const data = bytes.subarray(at + 8, at + 8 + view.getUint32(at));
    const end = data.indexOf(0);
    if (!["tEXt", "zTXt", "iTXt"].includes(kind) || latin(data, 0, end) !== KEYWORD) continue;
    if (kind === "tEXt") return latin(data, end + 1);
    if (kind === "zTXt") return inflated(data.subarray(end + 2));
    const text = data.subarray(data.indexOf(0, data.indexOf(0, end + 3) + 1) + 1);
    return data[end + 1] ? inflated(text) : new TextDecoder().decode(text);
  }
  return null;
}

/** Unpacked as far as a record may be long: what is longer is none. */
async function inflated(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let { done, value } = await reader.read(); !done && text.length <= MOST_LETTERS; { done, value } = await reader.read()) text += value;
  reader.cancel().catch(() => {});
  return text;
}

/** Segments before the pixels, each with its length: ISO/IEC 10918-1, B.1. */
function packetInJpeg(bytes) {
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
    const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (bytes[at + 1] === 0xe1 && latin(bytes, at + 4, at + 4 + XMP_MARK.length) === XMP_MARK) {
      return bytes.subarray(at + 4 + XMP_MARK.length, end);
    }
    at = end;
  }
  return null;
}

/** Chunks of an even length each: RFC 9649, 2.3. */
function packetInWebp(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (latin(bytes, at, at + 4) === "XMP ") return bytes.subarray(at + 8, at + 8 + length);
    at += 8 + length + (length % 2);
  }
  return null;
}

function inXmp(packet) {
  const text = packet && new TextDecoder().decode(packet);
  // No packet of ours has a document type, and without one there are no entities to blow up.
  if (!text || text.includes("<!")) return null;
  const parsed = new DOMParser().parseFromString(text.replace(/^\ufeff/, ""), "text/xml");
  const element = parsed.getElementsByTagNameNS(XMP_NAMESPACE, "record")[0];
  if (element) return element.textContent;
  const bearer = [...parsed.getElementsByTagName("*")].find((each) => each.hasAttributeNS(XMP_NAMESPACE, "record"));
  return bearer?.getAttributeNS(XMP_NAMESPACE, "record") ?? null;
}

function latin(bytes, from, to) {
  // Not at once: a call has only so many arguments.
  return Array.from(bytes.subarray(from, to), (byte) => String.fromCharCode(byte)).join("");
}
