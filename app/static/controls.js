// The settings of a request, within the limits that the chosen model announces.

import { html, useState } from "./preact-htm.js";
import { Judging } from "./judging.js";
import { stillChosen } from "./judged.js";
import { Strangers, useStrangers } from "./learned.js";
import { takes } from "./pictured.js";
import { goesThroughPrior } from "./pointed.js";
import { defaults, FIELDS, shapes, shortSchedulers } from "./request.js";

const PLACED = new Set([
  ..."prompt model width height num_inference_steps guidance_scale num_images seed".split(" "),
  ..."negative_prompt scheduler output_format reproducible strength mask_blur trajectory cache".split(" "),
  ..."noise_level start best_of min_probability".split(" "),
]);
/** Parameters that have a control of their own, here or elsewhere in the form. Every other one gets a plain control. */

const EVERY_STEP = { every: 1 };

const INTERVALS = Array.from({ length: 10 }, (_, k) => String(k + 1));
/** Evaluations from one of the whole model to the next; 1: all of them are. As app/contract/messages/deep_cache.py. */

/** `set` takes the fields that change. */
export function Controls({ request, set, model }) {
  const want = ({ num_images }) => set({ num_images, best_of: stillChosen(request.best_of, num_images) });
  return html`<${Size} request=${request} set=${set} model=${model} />
    <${Dial} name="num_inference_steps" label="Steps" min="1" max=${model.max_steps} step="1" request=${request} set=${set} />
    <${Dial} name="guidance_scale" label="Guidance" min="0" max=${model.max_guidance_scale} step="0.1" request=${request} set=${set} />
    ${model.max_images > 1 && !request.image_embedding?.at && html`<${Dial} name="num_images" label="Pictures" min="1" max=${model.max_images} step="1" request=${request} set=${want} />`}
    <div class="field">
      <label for="seed">Seed</label>
      <input id="seed" inputmode="numeric" pattern="[0-9]{1,19}" title="A whole number from 0, or nothing" placeholder="drawn anew each time"
        autocomplete="off" value=${request.seed} onInput=${(event) => set({ seed: event.target.value })} />
    </div>
    <${More} request=${request} set=${set} model=${model} />`;
}

/** A number of the request that is set by sliding. */
export function Dial({ name, request, set, ...options }) {
  return html`<${Slider} id=${`dial-${name}`} value=${request[name]} change=${(value) => set({ [name]: value })} ...${options} />`;
}

let made = 0;

/** A number that is set by sliding. */
export function Slider({ id: given, label, value, change, ...range }) {
  const [id] = useState(() => given ?? `slider-${++made}`);
  return html`<div class="field dial">
    <label for=${id}>${label}</label>
    <output for=${id}>${value}</output>
    <input id=${id} type="range" ...${range} value=${value} onInput=${(event) => change(Number(event.target.value))} />
  </div>`;
}

function Size({ request, set, model }) {
  const known = shapes(model, request.image);
  const at = known.findIndex((shape) => shape.width === request.width && shape.height === request.height);
  const [free, setFree] = useState(false);
  const own = free || at < 0;
  const onChange = (event) => {
    const shape = known[Number(event.target.value)];
    setFree(!shape);
    if (shape) set({ width: shape.width, height: shape.height });
  };
  return html`<div class="field">
      <label for="size">Size</label>
      <select id="size" value=${own ? "-1" : String(at)} onChange=${onChange}>
        ${known.map(
          ({ label, width, height }, index) =>
            html`<option value=${String(index)} selected=${!own && index === at}>${label}, ${width} × ${height}</option>`,
        )}
        <option value="-1" selected=${own}>Other</option>
      </select>
    </div>
    ${own && html`<div class="pair">
      <${Side} name="width" label="Width" request=${request} set=${set} model=${model} />
      <${Side} name="height" label="Height" request=${request} set=${set} model=${model} />
    </div>`}`;
}

function Side({ name, label, request, set, model }) {
  return html`<div class="field">
    <label for=${name}>${label}, pixels</label>
    <input id=${name} type="number" required min=${model.min_side} max=${model.max_side} step=${model.side_multiple}
      value=${request[name]} onInput=${(event) => set({ [name]: Number(event.target.value) })} />
  </div>`;
}

function More({ request, set, model }) {
  const strangers = useStrangers(request.negative_prompt, model);
  const isIdle = model.classifier_free_guidance === false;
  const isRead = request.guidance_scale > 1 && !isIdle;
  const idle = isIdle ? "Without effect: this model draws without one." : "It takes effect with a guidance above 1.";
  return html`<details class="more">
    <summary>More</summary>
    <div class="field">
      <label for="negative">Not in the picture</label>
      <textarea id="negative" dir="auto" rows="2" value=${request.negative_prompt}
        onInput=${(event) => set({ negative_prompt: event.target.value })}></textarea>
      ${request.negative_prompt && !isRead && html`<p class="hint">${idle}</p>`}
      ${isRead && strangers.length > 0 && html`<div class="hint"><${Strangers} strangers=${strangers} model=${model} text=${request.negative_prompt}
        change=${(text) => set({ negative_prompt: text })} /></div>`}
    </div>
    <${Choice} label="Scheduler" id="scheduler" value=${request.scheduler} names=${shortSchedulers(model, request.scheduler)} choose=${(scheduler) => set({ scheduler })} />
    <${Choice} label="File" id="format" value=${request.output_format} names=${["png", "jpeg", "webp"]} choose=${(output_format) => set({ output_format })} />
    <label class="tick"><input type="checkbox" checked=${request.reproducible} onChange=${(event) => set({ reproducible: event.target.checked })} />
      Repeatable to the last bit: drawn alone, so slower</label>
    ${takes(model, "trajectory") && model.safety !== "block" && html`<label class="tick"><input type="checkbox" checked=${!!request.trajectory} onChange=${(event) => set({ trajectory: event.target.checked ? EVERY_STEP : null })} />
      Keep every step, to play them and to save their latents</label>`}
    ${takes(model, "cache") && html`<${Choice} label="Cache interval" id="cache" value=${String(request.cache?.interval ?? 1)} names=${INTERVALS}
      choose=${(said) => set({ cache: said === "1" ? null : { interval: Number(said) } })} />`}
    <${Judging} request=${request} set=${set} model=${model} />
    <${Prior} request=${request} set=${set} model=${model} />
    ${FIELDS.filter((field) => !PLACED.has(field.name) && isPlain(field, model)).map((field) => html`<${Plain} field=${field} most=${model[`max_${field.name}`] ?? field.most} value=${request[field.name]} set=${set} />`)}
    <button type="button" class="small" onClick=${() => set(defaults(model, request.prompt))}>Back to the model's defaults</button>
  </details>`;
}

/** How the prior gets from a text to an embedding, where one goes through it. */
function Prior({ request, set, model }) {
  if (!takes(model, "prior") || !goesThroughPrior(request)) return null;
  const field = (name, label, usual, range) => html`<div class="field">
    <label for=${`prior-${name}`}>${label}</label>
    <input id=${`prior-${name}`} type="number" ...${range} placeholder=${usual} autocomplete="off" value=${request.prior?.[name] ?? ""}
      onInput=${({ target }) => set({ prior: { ...request.prior, [name]: target.value === "" ? null : Number(target.value) } })} />
  </div>`;
  return html`<div class="pair">
    ${field("num_inference_steps", "Steps of the prior", model.prior_num_inference_steps, { min: model.prior_min_steps ?? 1, max: model.max_steps, step: 1 })}
    ${field("guidance_scale", "Guidance of the prior", model.prior_guidance_scale, { min: 0, max: 100, step: "any" })}
  </div>`;
}

/** Whether one control is enough for it, and this model takes it. */
function isPlain({ name, type, announced }, model) {
  return type !== "object" && (!announced || !!model.takes?.includes(name));
}

/** A parameter as its declaration has it: its name as the label, its limits, its description as the hint. `most` is the
 * model's own limit where it has one. */
function Plain({ field, most, value, set }) {
  const { name, about, type, least } = field;
  const id = `plain-${name}`;
  const label = name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
  const change = (to) => set({ [name]: to });
  const choices = field.choices.length && field.default === null ? ["", ...field.choices] : field.choices;
  if (choices.length) return html`<${Choice} label=${label} id=${id} value=${value} names=${choices} choose=${change} />`;
  if (type === "boolean") {
    return html`<label class="tick" title=${about}><input type="checkbox" checked=${value} onChange=${(event) => change(event.target.checked)} /> ${label}</label>`;
  }
  const range = { type: "number", min: least, max: most, step: type === "integer" ? 1 : "any" };
  const onInput = ({ target }) => change(type === "string" || target.value === "" ? target.value : Number(target.value));
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <input id=${id} ...${type === "string" ? {} : range} title=${about} autocomplete="off" value=${value} onInput=${onInput} />
  </div>`;
}

/** One of several names, each in other words where `words` has some for it. */
export function Choice({ label, id, value, names, words = {}, choose }) {
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${(event) => choose(event.target.value)}>
      ${names.map((name) => html`<option value=${name} selected=${name === value}>${words[name] ?? name}</option>`)}
    </select>
  </div>`;
}
