// A request: what the form holds, and the body it becomes. Pure functions; knows a model's limits, refuses to know the DOM.

import { PARAMETERS } from "./parameters.js";
import { pictured, spoken, takes } from "./pictured.js";
import { mostDrawn, spokenExpectations, stillChosen } from "./judged.js";
import { pictureCount, pointed, spokenPoints } from "./pointed.js";

/** What the form holds: which model, all that decides the pixels, how many pictures, in which kind of file, and whether
 * every step is kept. */
export const FIELDS = PARAMETERS.filter(({ name, part }) => ["served", "picture", "series"].includes(part) || ["output_format", "trajectory"].includes(name));
export const STAYING = ["image", "mask_image", "strength", "mask_blur", "control", "loras", "trajectory", "image_embedding", "noise_level", "start"];
/** What goes along to another model, if that takes it. */
const SHAPES = [
  ["Square", 1, 1],
  ["Portrait", 3, 4],
  ["Landscape", 4, 3],
  ["Tall", 9, 16],
  ["Wide", 16, 9],
];

/** A form's values for a model, with the model's defaults; a prompt that stands there stays. */
export function defaults(model, prompt = "") {
  return { ...Object.fromEntries(FIELDS.map((field) => [field.name, initial(field, model)])), prompt, model: model?.id ?? "" };
}

/** A field's value before anybody has touched it; "" where the request leaves it open, as it does the seed. */
function initial({ name, type, by_model, default: own }, model) {
  if (!by_model) return type === "object" ? null : (own ?? "");
  // Until the model is known its kind matters only: see draft.js.
  return model?.[name] ?? (type === "string" ? "" : 0);
}

/** The body of POST /v1/jobs: what is empty is left out, an empty seed gets drawn, a kept one travels as its digits. */
export function bodyOf(request, model) {
  const body = { ...request, ...spoken(request), ...spokenPoints(request), ...spokenExpectations(request), seed: String(request.seed).trim() };
  const says = ({ name, default: own, announced }) =>
    body[name] !== "" && (body[name] !== false || own === true) && !(announced && isUnsaid(body[name], own));
  const said = Object.fromEntries(FIELDS.filter(says).map(({ name }) => [name, body[name]]));
  // Where flagged pictures are not shown, there are no previews, and a warning for who asks for them.
  if (model?.safety === "block") return { ...said, trajectory: undefined };
  return { ...said, preview_every: previewInterval(request.num_inference_steps), keep_previews: true };
}

/** Nothing but what a model has that does not take the parameter at all. */
function isUnsaid(value, own) {
  return value === null || value === own || (Array.isArray(value) && !value.length);
}

/** About a dozen looks at a picture while it comes. */
export function previewInterval(steps) {
  return Math.max(1, Math.round(steps / 12));
}

/** What a job was drawn from, as a form holds it. */
export function requestOf(input, model) {
  const known = Object.keys(defaults());
  const taken = Object.fromEntries(known.filter((name) => input[name] != null).map((name) => [name, input[name]]));
  return { ...defaults(model), ...taken, seed: String(input.seed) };
}

/** The values of `given` that are of the kind that `fields` have: a draft may be old, and a file a stranger's. */
export function ofKind(given, fields) {
  const isOfKind = ([name, value]) => typeof value === typeof fields[name] || (fields[name] === "" && typeof value === "number");
  return Object.fromEntries(Object.entries(given ?? {}).filter(isOfKind));
}

/** What a picture's record asks for, as a form holds it: with the model of the same weights, else of its name, else `fallback`. */
export function requestOfRecord(record, models, fallback) {
  const model = models.find(({ sha256 }) => sha256 === record.model_hash) ?? models.find(({ id }) => id === record.model) ?? fallback;
  const asked = requestOf({ ...ofKind(record, defaults(model)), seed: record.seed ?? "", model: model.id }, model);
  return fitted(asked, model);
}

/** Another model has other limits and defaults; the words, the pictures, the seed and the kind of file stay. */
export function moved(request, model) {
  const { prompt, negative_prompt, seed, output_format } = request;
  const stays = { prompt, negative_prompt, seed, output_format };
  for (const name of STAYING) if (name in request) stays[name] = request[name];
  const sized = { ...defaults(model), ...stays };
  const like = request.image && takes(model, "image") ? sizeLike(request.image, model) : {};
  return pointed(pictured({ ...sized, ...like }, model), model);
}

const LIMITS = [
  ..."id max_steps max_guidance_scale max_images max_clip_skip side_multiple min_side max_side schedulers takes loras controls".split(" "),
  ..."tasks max_noise_level prior_num_inference_steps prior_min_steps".split(" "),
];

/** What `fitted` looks at, to tell whether it is another model's, or has changed. */
export function limitsOf(model) {
  return JSON.stringify(LIMITS.map((name) => model[name]));
}

/** The same within the limits that the model announces now: a draft may be older than they are. */
export function fitted(request, model) {
  const wanted = Math.min(request.num_images, model.max_images);
  return {
    ...pointed(pictured(request, model), model),
    best_of: stillChosen(Math.min(request.best_of, model.max_images), wanted),
    ...untaken(model),
    width: side(request.width, model),
    height: side(request.height, model),
    num_inference_steps: Math.min(request.num_inference_steps, model.max_steps),
    guidance_scale: Math.min(request.guidance_scale, model.max_guidance_scale),
    num_images: wanted,
    clip_skip: Math.min(request.clip_skip, model.max_clip_skip ?? Infinity) || "",
    scheduler: model.schedulers.includes(request.scheduler) ? request.scheduler : model.scheduler,
  };
}

/** Where the model does not take a parameter that has a plain control: what says nothing of it. */
function untaken(model) {
  const names = FIELDS.filter(({ name, type, announced }) => announced && type !== "object" && !takes(model, name));
  return Object.fromEntries(names.map((field) => [field.name, initial(field, model)]));
}

/** A picture's own size, as near as the model draws it: with its proportions, within the limits, also those of one
 * picture's work. The service does the same where a request leaves its size open (from_pictures.py). */
export function sizeLike({ width, height }, model) {
  const affordable = (Math.sqrt(model.max_work / model.num_inference_steps) - model.side_multiple / 2) / Math.sqrt(width * height);
  const least = Math.max(1, model.min_side / Math.min(width, height));
  const scale = Math.min(least, model.max_side / Math.max(width, height), Math.max(0, affordable));
  return { width: side(width * scale, model), height: side(height * scale, model) };
}

/** Sizes around the model's native area, as {label, width, height}, each within its limits; before them, that of `picture`. */
export function shapes(model, picture) {
  const area = model.width * model.height;
  const seen = new Set();
  const around = SHAPES.map(([label, across, down]) => ({
    label,
    width: side(Math.sqrt((area * across) / down), model),
    height: side(Math.sqrt((area * down) / across), model),
  }));
  const like = picture ? [{ label: "Like the picture", ...sizeLike(picture, model) }] : [];
  return [...like, ...around].filter(({ width, height }) => {
    const known = seen.has(`${width}x${height}`);
    seen.add(`${width}x${height}`);
    return !known;
  });
}

function side(pixels, { side_multiple: multiple, min_side: least, max_side: most }) {
  const rounded = Math.round(pixels / multiple) * multiple;
  return Math.min(Math.floor(most / multiple) * multiple, Math.max(Math.ceil(least / multiple) * multiple, rounded));
}

/** The schedulers' short names; diffusers' class names say the same again, so one shows only while it is chosen. */
export function shortSchedulers(model, chosen) {
  const short = model.schedulers.filter((name) => name === chosen || !/^[A-Z]/.test(name));
  return short.length ? short : model.schedulers;
}

/** Why the service would refuse the work as a whole, or null. */
export function tooMuch(request, model) {
  const drawn = mostDrawn(request, pictureCount(request));
  if (drawn > model?.max_images) return `Up to ${drawn} pictures may be drawn for this, and a job draws ${model.max_images} at most.`;
  const work = request.width * request.height * drawn * request.num_inference_steps;
  if (!model?.max_work || work <= model.max_work) return null;
  const share = Math.ceil((work / model.max_work) * 100);
  return `${share} % of what one job may ask for: lower size, pictures or steps.`;
}
