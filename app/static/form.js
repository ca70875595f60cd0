// The enlarger's controls: what to draw, within the limits that the chosen model announces.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Trouble } from "./parts.js";
import { defaults, shapes, shortSchedulers, tooMuch } from "./wish.js";

const WIDE = matchMedia("(min-width: 56rem)").matches;
/** Beside the wall there is room for the settings, and no keyboard on the screen that a focus would call up. */

/** `given` replaces the form's values each time it changes; `send` returns a promise that throws what was wrong. */
export function WishForm({ models, model, given, send }) {
  const [wish, setWish] = useState(defaults(null));
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const [early, setEarly] = useState(false);
  const form = useRef();
  const chosen = models?.find((each) => each.id === wish.model) ?? null;
  const set = (change) => setWish((before) => ({ ...before, ...change }));

  useEffect(() => {
    if (model && !chosen) setWish((before) => defaults(model, before.prompt));
  }, [model?.id]);
  useEffect(() => given && setWish(given), [given]);
  useEffect(() => {
    if (!early || !models) return;
    if (chosen || !model) setEarly(false);
    if (chosen) form.current.requestSubmit();
  }, [early, models, chosen?.id]);

  const fits = tooMuch(wish, chosen);

  async function submit(event) {
    event?.preventDefault();
    // Enter asks for this even where the button is disabled. Nothing goes out before its model's sizes are in the form.
    if (!chosen) return setEarly(true);
    if (fits) return;
    setBusy(true);
    setError(null);
    try {
      await send(wish);
    } catch (refused) {
      setError(refused);
    }
    setBusy(false);
  }

  return html`<form class="wish" ref=${form} onSubmit=${submit}>
    <${Prompt} value=${wish.prompt} set=${set} />
    <button type="submit" class="primary" disabled=${busy || !chosen || !!fits}>${busy || early ? "Sending" : "Generate"}</button>
    ${fits && html`<p class="hint" role="alert">${fits}</p>`}
    ${error && error.status !== 401 && html`<${Trouble} error=${error} retry=${error.problem ? null : () => submit()} />`}
    ${chosen &&
    html`<details class="settings" open=${WIDE}>
      <summary><span>Settings</span><span class="settled">${settled(wish)}</span></summary>
      <${Controls} wish=${wish} set=${set} model=${chosen} />
      <${More} wish=${wish} set=${set} model=${chosen} models=${models} choose=${(id) => setWish(moved(wish, models, id))} />
    </details>`}
  </form>`;
}

function settled(wish) {
  const seed = String(wish.seed).trim() ? `, seed ${wish.seed}` : "";
  return `${wish.width} × ${wish.height}, ${wish.num_inference_steps} steps${seed}`;
}

/** Another model has other limits and defaults; the words and the seed stay. */
function moved(wish, models, id) {
  const { prompt, negative_prompt, seed, output_format } = wish;
  return { ...defaults(models.find((each) => each.id === id)), prompt, negative_prompt, seed, output_format };
}

function Prompt({ value, set }) {
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  };
  return html`<label for="prompt">What should the picture show?</label>
    <textarea id="prompt" rows="3" maxlength="2000" required autofocus=${WIDE} aria-describedby="prompt-keys" value=${value}
      onInput=${(event) => set({ prompt: event.target.value })} onKeyDown=${onKeyDown}></textarea>
    <p id="prompt-keys" class="hint">Enter to generate, Shift+Enter for a new line</p>`;
}

function Controls({ wish, set, model }) {
  return html`<${Size} wish=${wish} set=${set} model=${model} />
    <${Dial} name="num_inference_steps" label="Steps" min="1" max=${model.max_steps} step="1" wish=${wish} set=${set} />
    <${Dial} name="guidance_scale" label="Guidance" min="0" max=${model.max_guidance_scale} step="0.1" wish=${wish} set=${set} />
    ${model.max_images > 1 && html`<${Dial} name="num_images" label="Pictures" min="1" max=${model.max_images} step="1" wish=${wish} set=${set} />`}
    <div class="field">
      <label for="seed">Seed</label>
      <input id="seed" inputmode="numeric" pattern="[0-9]{1,19}" title="A whole number from 0, or nothing" placeholder="drawn anew each time"
        autocomplete="off" value=${wish.seed} onInput=${(event) => set({ seed: event.target.value })} />
    </div>`;
}

function Dial({ name, label, wish, set, ...range }) {
  const id = `dial-${name}`;
  return html`<div class="field dial">
    <label for=${id}>${label}</label>
    <output for=${id}>${wish[name]}</output>
    <input id=${id} type="range" ...${range} value=${wish[name]} onInput=${(event) => set({ [name]: Number(event.target.value) })} />
  </div>`;
}

function Size({ wish, set, model }) {
  const known = shapes(model);
  const at = known.findIndex((shape) => shape.width === wish.width && shape.height === wish.height);
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
      <${Side} name="width" label="Width" wish=${wish} set=${set} model=${model} />
      <${Side} name="height" label="Height" wish=${wish} set=${set} model=${model} />
    </div>`}`;
}

function Side({ name, label, wish, set, model }) {
  return html`<div class="field">
    <label for=${name}>${label}, pixels</label>
    <input id=${name} type="number" required min=${model.min_side} max=${model.max_side} step=${model.side_multiple}
      value=${wish[name]} onInput=${(event) => set({ [name]: Number(event.target.value) })} />
  </div>`;
}

function More({ wish, set, model, models, choose }) {
  const choice = (label, id, value, names, change) => html`<div class="field">
    <label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${(event) => change(event.target.value)}>
      ${names.map((name) => html`<option value=${name} selected=${name === value}>${name}</option>`)}
    </select>
  </div>`;
  return html`<details class="more">
    <summary>More</summary>
    <div class="field">
      <label for="negative">Not in the picture</label>
      <textarea id="negative" rows="2" maxlength="2000" value=${wish.negative_prompt}
        onInput=${(event) => set({ negative_prompt: event.target.value })}></textarea>
      ${wish.negative_prompt && wish.guidance_scale <= 1 && html`<p class="hint">It takes effect with a guidance above 1.</p>`}
    </div>
    ${choice("Scheduler", "scheduler", wish.scheduler, shortSchedulers(model, wish.scheduler), (scheduler) => set({ scheduler }))}
    ${models.length > 1 && choice("Model", "model", wish.model, models.map((each) => each.id), choose)}
    ${choice("File", "format", wish.output_format, ["png", "jpeg", "webp"], (output_format) => set({ output_format }))}
    <label class="tick"><input type="checkbox" checked=${wish.reproducible} onChange=${(event) => set({ reproducible: event.target.checked })} />
      Repeatable to the last bit, a little slower</label>
    <button type="button" class="small" onClick=${() => set(defaults(model, wish.prompt))}>Back to the model's defaults</button>
  </details>`;
}
