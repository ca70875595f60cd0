// What a picture was made from beside its words: a picture, a mask, points of a space, controls, LoRAs. And how a print becomes such a picture.
// Refuses to know how these are chosen.

import { html, useState } from "./preact-htm.js";
import { Thumb } from "./picture.js";
import { takes } from "./pictured.js";
import { varies } from "./pointed.js";

const VARIED = 0.6;
/** Strength of a variation: what is in the picture stays, how it looks does not. */

/** The model that can draw from a print of this job: its own, else the page's. Null if neither can. */
export function modelFrom(job, { models, model }) {
  const own = models?.find((each) => each.id === job.model);
  return [own, model].find((each) => takes(each, "image")) ?? null;
}

/** The model that can draw from the embedding of a print of this job: its own, else any. Null if none can. */
export function modelVarying(job, { models }) {
  const able = models?.filter(varies) ?? [];
  return able.find((each) => each.id === job.model) ?? able[0] ?? null;
}

/** A print, to draw from. */
export function printOf(job, { index, width, height }) {
  return { job: job.id, index, width, height };
}

/** The parameters of a print, with the print itself to begin with. The seed is drawn anew. */
export function edited(input, job, image, model) {
  return { ...input, model: model.id, image: printOf(job, image), mask_image: null, strength: "", seed: "" };
}

export function varied(...print) {
  return { ...edited(...print), strength: VARIED, num_images: 1 };
}

/** Nothing for a picture that was made from words alone. */
export function Origins({ input }) {
  const { image, mask_image: mask, strength, image_embedding: points, control = [], loras = [] } = input;
  if (!image && !points && !control?.length && !loras?.length) return null;
  return html`<ul class="origins" aria-label="Made from">
    ${image && html`<${Origin} picture=${image} words=${strength == null ? "Picture" : `Picture, strength ${strength}`} />`}
    ${mask && html`<${Origin} picture=${mask} words="Mask: white was repainted" />`}
    ${points && (points.slerp ?? [points]).map((point) => html`<${PointOf} point=${point} />`)}
    ${points?.diff && html`<li class="quiet">From “${points.diff.from}” to “${points.diff.to}”</li>`}
    ${control?.map((each) => html`<${Origin} picture=${each.image} words=${controlWords(each)} />`)}
    ${loras?.map(({ name, weight }) => html`<li class="quiet">LoRA ${name} × ${weight}</li>`)}
  </ul>`;
}

function PointOf({ point }) {
  if (point.of) return html`<${Origin} picture=${point.of} words="Embedding of a picture" />`;
  return html`<li class="quiet">${point.text ? `Embedding of “${point.text}”` : "A vector"}</li>`;
}

function controlWords({ model, scale, start, end }) {
  const part = start > 0 || end < 1 ? `, ${Math.round(100 * start)} to ${Math.round(100 * end)} % of the steps` : "";
  return `Control ${model} × ${scale}${part}`;
}

function Origin({ picture, words }) {
  const [isGone, setGone] = useState(false);
  return html`<li class="quiet"><${Thumb} picture=${picture} gone=${() => setGone(true)} />
    <span>${words}${isGone && ". It is not kept any more."}</span></li>`;
}
