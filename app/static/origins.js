// What a picture was made from beside its words: a picture, a mask, controls, LoRAs. And how a print becomes such a picture.
// Refuses to know how these are chosen.

import { html, useState } from "./preact-htm.js";
import { Thumb } from "./picture.js";
import { takes } from "./pictured.js";

const VARIED = 0.6;
/** Strength of a variation: what is in the picture stays, how it looks does not. */

/** The model that can draw from a print of this job: its own, else the page's. Null if neither can. */
export function modelFrom(job, { models, model }) {
  const own = models?.find((each) => each.id === job.model);
  return [own, model].find((each) => takes(each, "image")) ?? null;
}

/** The parameters of a print, with the print itself to begin with. The seed is drawn anew. */
export function edited(input, job, image, model) {
  const { index, width, height } = image;
  return { ...input, model: model.id, image: { job: job.id, index, width, height }, mask_image: null, strength: "", seed: "" };
}

export function varied(...print) {
  return { ...edited(...print), strength: VARIED, num_images: 1 };
}

/** Nothing for a picture that was made from words alone. */
export function Origins({ input }) {
  const { image, mask_image: mask, strength, control = [], loras = [] } = input;
  if (!image && !control?.length && !loras?.length) return null;
  return html`<ul class="origins" aria-label="Made from">
    ${image && html`<${Origin} picture=${image} words=${strength == null ? "Picture" : `Picture, strength ${strength}`} />`}
    ${mask && html`<${Origin} picture=${mask} words="Mask: white was repainted" />`}
    ${control?.map((each) => html`<${Origin} picture=${each.image} words=${controlWords(each)} />`)}
    ${loras?.map(({ name, weight }) => html`<li class="quiet">LoRA ${name} × ${weight}</li>`)}
  </ul>`;
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
