// The pictures and adapters of a request: which of them a model takes, and how the body says them.
// Pure functions; refuses to know where pictures come from and what they look like.

import { isMask, untouched } from "./mask.js";

export const MOST_ADAPTERS = 4;
/** Of LoRAs, and of controls: the service takes no more in one request. */

const STRENGTH = 0.8;
const STRENGTH_WITH_MASK = 1;
/** What the service takes where a request leaves it open. */

/** Whether the model takes a parameter that not every model takes. */
export function takes(model, name) {
  return !!model?.takes?.includes(name);
}

/** What of a picture goes into a request: which one it is. The form knows its size as well. */
export function referenceOf({ input, job, index, sha256 }) {
  if (job) return { job, index };
  return input ? { input } : { sha256 };
}

/** Whether a value, out of a draft or of a stranger's file, can be such a picture. */
export function isPicture(value) {
  const isNamed = /^in_[0-9a-z]{24,30}$/.test(value?.input) || /^job_[0-9a-z]{24}$/.test(value?.job) || /^[0-9a-f]{64}$/.test(value?.sha256);
  return isNamed && value.width > 0 && value.height > 0;
}

/** How much of the picture is drawn anew, also where the request leaves it open. */
export function strengthOf({ strength, mask_image }) {
  if (typeof strength === "number") return strength;
  return mask_image ? STRENGTH_WITH_MASK : STRENGTH;
}

/** The request without what the model does not take, or does not have. */
export function pictured(request, model) {
  const image = takes(model, "image") && isPicture(request.image) ? request.image : null;
  const mask = image && takes(model, "mask_image") ? maskOf(request.mask_image) : null;
  return {
    ...request,
    image,
    mask_image: mask,
    strength: image && takes(model, "strength") ? request.strength : "",
    mask_blur: mask && takes(model, "mask_blur") ? request.mask_blur : 0,
    control: takes(model, "control") ? among(request.control, model.controls, "model") : null,
    trajectory: takes(model, "trajectory") ? (request.trajectory ?? null) : null,
    cache: takes(model, "cache") ? (request.cache ?? null) : null,
    loras: takes(model, "loras") ? among(request.loras, model.loras, "name") : null,
  };
}

function maskOf(value) {
  if (isMask(value)) return value;
  return isPicture(value) ? untouched(value) : null;
}

function among(chosen, known, name) {
  if (!Array.isArray(chosen)) return null;
  const names = new Set((known ?? []).map((each) => each.name));
  const left = chosen.filter((each) => names.has(each?.[name]) && (!each.image || isPicture(each.image)));
  return left.length ? left.slice(0, MOST_ADAPTERS) : null;
}

/** How the body says them. A painted mask was sent in before: see `sent` in inputs.js. */
export function spoken({ image, mask_image: mask, strength, mask_blur, control, loras }) {
  return {
    image: image ? referenceOf(image) : null,
    mask_image: image && mask ? referenceOf(mask.base ?? mask) : null,
    strength: image ? strength : null,
    mask_blur: image && mask ? mask_blur : null,
    control: control?.map((each) => ({ ...each, image: referenceOf(each.image) })) ?? null,
    loras: loras ?? null,
  };
}

/** What is still to be chosen before the request can be sent, as a sentence, or null. */
export function missing({ image, mask_image, control, image_embedding }, model) {
  if (!model) return null;
  const tasks = model.tasks ?? ["text-to-image"];
  if (!image && !image_embedding && !tasks.includes("text-to-image")) return `${model.id} draws over pictures only: add one below.`;
  if (image && !mask_image && !tasks.includes("image-to-image")) return `${model.id} only repaints parts of a picture: paint a mask over it.`;
  const empty = control?.find((each) => !each.image);
  return empty ? `Choose a picture for ${empty.model}, or remove it.` : null;
}
