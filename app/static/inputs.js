// Pictures that come in: one is sent, named in a request, and seen again.
// Knows the API's inputs and what a browser decodes; refuses to know the form.

import { Refused, call, load } from "./api.js";
import { maskFile } from "./mask.js";
import { source } from "./parts.js";
import { referenceOf } from "./pictured.js";

export const ACCEPTED = "image/png,image/jpeg,image/webp";
const UPLOAD_MS = 300_000;
/** A photo on a slow line. */
const MOST_PIXELS = 16 * 1024 * 1024;
const MOST_SIDE = 16_384;
/** Of what the service takes. No model draws as much, so a larger photo is sent smaller. */
const SIGHT_SIDE = 1_024;
const SIGHTS = 40;

const sights = new Map();
/** What was seen lately, by name: promises of something for an <img>. */

/** Sends a file in. Answers the reference to it, as a request has it. Throws Refused or Unreachable. */
export async function upload(file, ended = []) {
  await readable(file);
  const body = await shrunk(file);
  const until = AbortSignal.any([...ended, AbortSignal.timeout(UPLOAD_MS)]);
  const kept = await call("/v1/inputs", { method: "POST", body, signal: until }).catch((error) => Promise.reject(ofFile(error)));
  remember(kept.id, sightOfFile(body));
  return { input: kept.id, width: kept.width, height: kept.height };
}

/** A folder that was dropped looks like a file, and a file may have gone since it was chosen: nothing of either would be sent. */
async function readable(file) {
  await file
    .slice(0, 1)
    .arrayBuffer()
    .catch(() => Promise.reject(new Refused({ title: "The file cannot be read", detail: "It is a folder, or was moved or changed since it was chosen." })));
}

/** The service speaks of bodies and headers, to whoever writes them: here somebody has chosen a file. */
function ofFile(error) {
  if (error.status !== 415) return error;
  return new Refused({ ...error.problem, title: "The picture cannot be used", detail: "A picture is a PNG, a JPEG or a WebP." });
}

/** The request as it can be sent: its painted mask is a picture that came in. Throws as `upload` does. */
export async function sent(request) {
  const mask = request.mask_image;
  if (!request.image || !mask?.done?.length) return request;
  const base = mask.base && (await loaded(await sightOf(mask.base)));
  return { ...request, mask_image: await upload(await maskFile(mask, request.image, base)) };
}

/** An image that is there to be drawn from. */
export async function loaded(src) {
  const image = new Image();
  image.src = src;
  await image.decode();
  return image;
}

/** Something for an <img> that shows it. Throws as `call` does, with 404 when it is not kept any more. */
export function sightOf(picture) {
  const name = nameOf(picture);
  return sights.get(name) ?? remember(name, sightFrom(picture));
}

/** The same of what a LoRA does, by the hash that the model's list has. */
export function sightOfThumbnail(sha256) {
  return sights.get(sha256) ?? remember(sha256, load(`/v1/thumbnails/${sha256}`).then(sightOfFile));
}

/** The link to a print ends after a while: then it is asked for anew. */
export function forgetSight(picture) {
  sights.delete(nameOf(picture));
}

/** As `sightOf`, of a file that was not sent yet. */
export async function sightOfFile(file) {
  const bitmap = await createImageBitmap(file);
  return canvasOf(bitmap, SIGHT_SIDE / Math.max(bitmap.width, bitmap.height)).toDataURL("image/webp", 0.9);
}

async function sightFrom({ input, job, index, sha256 }) {
  if (!job) return sightOfFile(await load(`/v1/inputs/${input ?? sha256}/content`));
  const image = (await call(`/v1/jobs/${job}`)).images.find((each) => each.index === index);
  if (!image) throw new Refused({ status: 404 });
  return source(image);
}

function nameOf(picture) {
  return Object.values(referenceOf(picture)).join(" ");
}

function remember(name, sight) {
  sights.set(name, sight);
  sight.catch(() => sights.delete(name));
  for (const old of [...sights.keys()].slice(0, -SIGHTS)) sights.delete(old);
  return sight;
}

/** The file, or the same with as many pixels as the service takes. What no browser decodes is the service's to judge. */
async function shrunk(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return file;
  const { width, height } = bitmap;
  const scale = Math.min(Math.sqrt(MOST_PIXELS / (width * height)), MOST_SIDE / Math.max(width, height));
  if (scale >= 1) return file;
  const kind = file.type === "image/jpeg" ? "image/jpeg" : "image/png";
  return new Promise((done) => canvasOf(bitmap, scale).toBlob((smaller) => done(smaller ?? file), kind, 0.95));
}

function canvasOf(bitmap, scale) {
  const canvas = document.createElement("canvas");
  const by = Math.min(1, scale);
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.floor(side * by)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas;
}
