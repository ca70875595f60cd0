// LoRAs and controls of a request: chosen by name or by what they do, each with its weight, a control with its picture.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Slider } from "./controls.js";
import { sightOfThumbnail } from "./inputs.js";
import { Place, useUpload } from "./picture.js";
import { MOST_ADAPTERS, takes } from "./pictured.js";

/** `write` puts a word into the prompt; `count`, `note` and `away` are as for the picture to begin with. */
export function Adapters({ request, set, model, write, ...sending }) {
  const loras = takes(model, "loras") && model.loras?.length > 0;
  const controls = takes(model, "control") && model.controls?.length > 0;
  if (!loras && !controls) return null;
  return html`<div class="adapters">
    ${loras && html`<${Loras} chosen=${request.loras ?? []} known=${model.loras} set=${(loras) => set({ loras })} write=${write} />`}
    ${controls && html`<${ControlNets} chosen=${request.control ?? []} model=${model} set=${(control) => set({ control })} ...${sending} />`}
  </div>`;
}

function Loras({ chosen, known, set, write }) {
  const left = known.filter(({ name }) => !chosen.some((each) => each.name === name));
  const of = (wanted) => known.find(({ name }) => name === wanted) ?? {};
  const add = (name) => set([...chosen, { name, weight: 1 }]);
  return html`${chosen.map((lora, at) => html`<div class="adapter" key=${lora.name} role="group" aria-label=${`LoRA ${lora.name}`}>
      <${Weight} label=${`LoRA ${lora.name}`} value=${lora.weight} min="-1" max="2" change=${(weight) => set(chosen.with(at, { ...lora, weight }))} />
      <div class="row">
        <${Thumbnail} sha256=${of(lora.name).thumbnail} />
        <${Words} words=${of(lora.name).words ?? []} write=${write} />
        <button type="button" class="small" aria-label=${`Remove: LoRA ${lora.name}`} onClick=${() => set(chosen.toSpliced(at, 1))}>Remove</button>
      </div>
    </div>`)}
    ${chosen.length < MOST_ADAPTERS && html`<${Shown} loras=${left.filter(({ thumbnail }) => thumbnail)} add=${add} />`}
    <${More} label="Add a LoRA" names=${left.map(({ name }) => name)} taken=${chosen.length} add=${add} />`;
}

/** Those of which there is something to see. */
function Shown({ loras, add }) {
  if (!loras.length) return null;
  return html`<div class="shown" role="group" aria-label="LoRAs by what they do">
    ${loras.map(({ name, thumbnail }) => html`<button type="button" key=${name} aria-label=${`Add LoRA ${name}`} title=${name} onClick=${() => add(name)}>
      <${Thumbnail} sha256=${thumbnail} /><span>${name}</span>
    </button>`)}
  </div>`;
}

function Thumbnail({ sha256 }) {
  const [src, setSrc] = useState(null);
  useEffect(() => {
    let wanted = true;
    setSrc(null);
    if (sha256) sightOfThumbnail(sha256).then((found) => wanted && setSrc(found), () => {});
    return () => (wanted = false);
  }, [sha256]);
  // One that is gone leaves the name.
  return src && html`<img class="thumbnail" src=${src} alt="" />`;
}

/** What a LoRA wants to be called by, if its file says so. */
function Words({ words, write }) {
  return words.map((word) => html`<button type="button" class="small word" aria-label=${`Write into the prompt: ${word}`} onClick=${() => write(word)}>${word}</button>`);
}

let added = 0;

function ControlNets({ chosen, model, set, ...sending }) {
  // Each stays itself when one before it goes: its picture may be on its way.
  const keys = useRef([]);
  while (keys.current.length < chosen.length) keys.current.push(++added);
  keys.current.length = chosen.length;
  const remove = (at) => {
    keys.current.splice(at, 1);
    set(chosen.toSpliced(at, 1));
  };
  const latest = useRef();
  latest.current = chosen;
  const change = (at, values) => set(latest.current.with(at, { ...latest.current[at], ...values }));
  const add = (name) => set([...chosen, { model: name, image: null, scale: 1, start: 0, end: 1 }]);
  // The same one may be chosen twice, with two pictures; of different ones a model uses so many at once.
  const used = new Set(chosen.map((each) => each.model));
  const names = used.size < model.max_controls ? model.controls.map(({ name }) => name) : [...used];
  return html`${chosen.map((control, at) => html`<${ControlNet} key=${keys.current[at]} control=${control} change=${(values) => change(at, values)}
      remove=${() => remove(at)} ...${sending} />`)}
    <${More} label="Add a control" names=${names} taken=${chosen.length} add=${add} />`;
}

function ControlNet({ control, change, remove, count, note, away }) {
  const upload = useUpload({ give: give, count, note });
  const [isLost, setLost] = useState(false);
  const { model, image, scale, start, end } = control;
  function give(image) {
    setLost(false);
    change({ image });
  }
  const gone = () => {
    setLost(true);
    change({ image: null });
  };
  return html`<div class="adapter" role="group" aria-label=${`Control ${model}`}>
    <${Weight} label=${`Control ${model}`} value=${scale} min="0" max="2" change=${(scale) => change({ scale })} />
    <${Place} label=${`Picture for ${model}`} name=${`Picture for ${model}`} picture=${image} upload=${upload} remove=${() => change({ image: null })} gone=${gone} away=${away} />
    ${isLost && !image && html`<p class="hint" role="status">The picture that was here is not kept any more.</p>`}
    <div class="pair">
      <${Weight} label="From" value=${start} min="0" max="0.95" change=${(from) => change({ start: from, end: Math.max(end, hundredths(from + 0.05)) })} />
      <${Weight} label="To" value=${end} min="0.05" max="1" change=${(to) => change({ end: to, start: Math.min(start, hundredths(to - 0.05)) })} />
    </div>
    <button type="button" class="small" aria-label=${`Remove: control ${model}`} onClick=${remove}>Remove the control</button>
  </div>`;
}

const hundredths = (value) => Math.round(100 * value) / 100;
/** A number that is set by sliding. */
const Weight = (options) => html`<${Slider} step="0.05" ...${options} />`;

/** A list from which one is taken at a time. */
function More({ label, names, taken, add }) {
  if (!names.length || taken >= MOST_ADAPTERS) return null;
  const onChange = ({ target }) => {
    if (target.value) add(target.value);
    target.value = "";
  };
  return html`<select class="add" aria-label=${label} onChange=${onChange}>
    <option value="">${label}</option>
    ${names.map((name) => html`<option value=${name}>${name}</option>`)}
  </select>`;
}
