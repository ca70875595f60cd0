// What a picture is drawn from in the place of its prompt: a point of the space of image embeddings, or a way from one.
// Pure functions: which points a model can draw from, and how the body says them. Refuses to know how they are chosen.

import { isPicture, referenceOf, takes } from "./pictured.js";

const MOST_PLACES = 32;
/** Of one job on a way: the service takes no more. */

const KINDS = ["of", "text", "vector"];
/** To name a point: a picture, a text through the prior, or its numbers. */

const BETWEEN = 5;
const ALONG = 3;
const AS_FAR_AS = 0.5;
/** Places of a new way between two points, and along a difference of two texts. */

const VARIATIONS = 4;

export const INVERTIBLE = ["ddim", "DDIMScheduler"];
/** Schedulers through which a picture can be carried back. */

const sees = (model) => !!model?.tasks?.includes("image-variation");
const readsTexts = (model) => model?.prior_num_inference_steps != null;

/** Whether the model draws from a picture by its embedding. */
export const varies = (model) => takes(model, "image_embedding") && sees(model);

/** How the model can be told of a point, of those that somebody chooses. */
export const kindsOf = (model) => [sees(model) && "of", readsTexts(model) && "text"].filter(Boolean);

/** What is drawn from: "" the prompt, a point by its kind, "slerp" or "diff". */
export function modeOf(points) {
  if (!points) return "";
  if (points.slerp) return "slerp";
  return points.diff ? "diff" : kindOf(points);
}

/** Those that can be chosen, and `chosen` itself, which may have come out of a record. */
export function modesOf(model, chosen) {
  const isDrawnFromText = (model.tasks ?? ["text-to-image"]).includes("text-to-image");
  const modes = [isDrawnFromText && "", sees(model) && "of", "slerp", readsTexts(model) && "diff"].filter((mode) => mode !== false);
  return modes.includes(chosen) ? modes : [...modes, chosen];
}

export function kindOf(point) {
  return KINDS.find((kind) => point[kind] != null) ?? KINDS.find((kind) => kind in point);
}

/** Where so many pictures are on the way from one point to another. One alone is in the middle. */
export const between = (count) => (count === 1 ? [0.5] : along(count, 1));

/** Where they are along a difference: from its beginning on, as far as `reach`. One alone is there. */
export function along(count, reach) {
  if (count === 1) return [reach];
  return Array.from({ length: count }, (_, at) => Math.round((1_000 * reach * at) / (count - 1)) / 1_000);
}

export const mostPlaces = (model) => Math.min(MOST_PLACES, model.max_images);

/** A new choice of what is drawn from, beginning with the picture that was chosen `before`. */
export function begun(mode, model, before) {
  const picture = firstPicture(before);
  const first = sees(model) ? { of: picture } : { text: "" };
  const most = mostPlaces(model);
  if (mode === "of") return { of: picture };
  if (mode === "slerp") return { slerp: [first, emptied(kindOf(first))], at: between(Math.min(BETWEEN, most)) };
  if (mode === "diff") return { ...first, diff: { from: "", to: "" }, at: along(Math.min(ALONG, most), AS_FAR_AS) };
  return null;
}

export const emptied = (kind) => (kind === "text" ? { text: "" } : { of: null });

/** The same way, from another point. */
export function from(point, points) {
  return { ...Object.fromEntries(Object.entries(points).filter(([name]) => !KINDS.includes(name))), ...point };
}

/** A picture that is still to be chosen. */
const isOpen = (point) => kindOf(point) === "of" && !point.of;

/** Which of the points is one, -1 if none is. */
export const openPoint = (points) => (points.slerp ?? [points]).findIndex(isOpen);

/** The same with a place for a picture: the end of a way that is still open, or the one point that there is. */
export function opened(points, model) {
  if (!points || (points.slerp && openPoint(points) < 0)) return begun("of", model, null);
  return points.slerp ? points : from({ of: null }, points);
}

function firstPicture(points) {
  return [points, ...(points?.slerp ?? [])].map((point) => point?.of).find(Boolean) ?? null;
}

/** The request without what the model cannot draw from, or does not take. */
export function pointed(request, model) {
  const points = takes(model, "image_embedding") ? tidied(request.image_embedding, model) : null;
  const most = model.max_noise_level ?? 0;
  return {
    ...request,
    image_embedding: points ?? (varies(model) && !modesOf(model, "of").includes("") ? begun("of", model, null) : null),
    noise_level: takes(model, "noise_level") ? Math.min(Number(request.noise_level) || 0, most) : 0,
    start: takes(model, "start") && points?.of ? request.start : "noise",
    prior: takes(model, "prior") ? (request.prior ?? null) : null,
  };
}

/** As a form holds them, out of a draft, a job or a stranger's file; null if they are of another kind. */
function tidied(value, model) {
  if (!value || typeof value !== "object") return null;
  const said = Array.isArray(value.at) ? value.at.filter((each) => each >= 0 && each <= 1).slice(0, MOST_PLACES) : [];
  if (Array.isArray(value.slerp)) {
    const ends = value.slerp.slice(0, 2).map((point) => tidiedPoint(point, model));
    return ends.length === 2 && ends.every(Boolean) ? { slerp: ends, at: said.length ? said : between(BETWEEN) } : null;
  }
  const point = tidiedPoint(value, model);
  if (!point || !value.diff || !readsTexts(model)) return point;
  const diff = { from: String(value.diff.from ?? ""), to: String(value.diff.to ?? "") };
  return { ...point, diff, at: said.length ? said : along(ALONG, AS_FAR_AS) };
}

function tidiedPoint(value, model) {
  const kind = value && kindOf(value);
  if (kind === "of" && sees(model)) return { of: isPicture(value.of) ? value.of : null };
  if (kind === "text" && readsTexts(model)) return { text: String(value.text) };
  return kind === "vector" && typeof value.vector === "string" ? { vector: value.vector } : null;
}

/** Whether a text of the request goes through the prior, so that its steps and guidance count. */
export function goesThroughPrior({ image_embedding: points }) {
  return !points || [points, ...(points.slerp ?? [])].some((point) => point.text != null);
}

/** How many pictures the request asks for: one for each place of a way. */
export const pictureCount = ({ image_embedding: points, num_images: asked }) => points?.at?.length ?? asked;

/** How the body says all this. */
export function spokenPoints(request) {
  const { image_embedding: points, prior, start } = request;
  const set = Object.fromEntries(Object.entries(prior ?? {}).filter(([, value]) => value != null && value !== ""));
  return {
    image_embedding: points ? spokenWay(points) : null,
    num_images: points?.at ? points.at.length : request.num_images,
    start: points?.of ? start : "noise",
    prior: Object.keys(set).length && goesThroughPrior(request) ? set : null,
  };
}

function spokenWay(points) {
  const { slerp, diff, at } = points;
  const named = slerp ? { slerp: slerp.map(spokenPoint) } : spokenPoint(points);
  return { ...named, ...(diff ? { diff: { from: diff.from, to: diff.to } } : {}), ...(at ? { at } : {}) };
}

function spokenPoint(point) {
  const kind = kindOf(point);
  return { [kind]: kind === "of" ? referenceOf(point.of) : point[kind] };
}

/** What is still to be chosen before the request can be sent, as a sentence, or null. */
export function missingPoint({ image_embedding: points, start, scheduler }) {
  if (!points) return null;
  const ends = points.slerp ?? [points];
  if (ends.some(isOpen)) return points.slerp ? "Choose a picture for each end of the way." : "Choose the picture to draw from.";
  if (ends.some((point) => point.text?.trim() === "")) return "Write the text to draw from.";
  if (points.diff && !(points.diff.from.trim() && points.diff.to.trim())) return "Write what is in the picture, and what it should become.";
  if (points.of && start === "inverted" && !INVERTIBLE.includes(scheduler)) return "To begin from the picture itself, choose the scheduler ddim.";
  return null;
}

/** The parameters of a print, with its embedding to draw from. The seed is drawn anew, and all that are drawn are wanted. */
export function variation(input, picture, model) {
  const everyone = { best_of: "", min_probability: "" };
  const rest = { ...input, ...everyone, model: model.id, image: null, mask_image: null, strength: "", seed: "", start: "noise" };
  return { ...rest, num_images: Math.min(VARIATIONS, model.max_images), image_embedding: { of: picture } };
}

/** The request with a print as an end of a way: as the one that is still open, or as the first of a new one. */
export function mixed(request, picture, model) {
  const ends = request.model === model.id ? (request.image_embedding?.slerp ?? []) : [];
  const open = openPoint({ slerp: ends });
  const begunWay = begun("slerp", model, { of: picture });
  const way = open < 0 ? begunWay : { ...request.image_embedding, slerp: ends.with(open, { of: picture }) };
  return { ...request, image: null, mask_image: null, strength: "", start: "noise", image_embedding: way };
}
