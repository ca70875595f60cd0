// The enlarger's controls: what to draw. What stands here outlives a reload and every refusal.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";
import { Choice, Controls } from "./controls.js";
import { keep, restored } from "./draft.js";
import { Failure } from "./failure.js";
import { defaults, fitted, limitsOf, moved, tooMuch } from "./wish.js";

const WIDE = matchMedia("(min-width: 56rem)").matches;
/** Beside the wall there is room for the settings, and no keyboard on the screen that a focus would call up. */

/** `given` replaces the form's values each time it changes; `sender` sends them in. */
export function WishForm({ models, model, given, sender, away }) {
  const [wish, setWish] = useState(() => restored(defaults(null)));
  const [early, setEarly] = useState(false);
  const form = useRef();
  const chosen = models?.find((each) => each.id === wish.model) ?? null;
  const set = (change) => setWish((before) => ({ ...before, ...change }));

  // At once, not after the next frame: the page may be left before it.
  useLayoutEffect(() => keep(wish), [wish]);
  useEffect(() => {
    if (model) setWish((before) => (chosen ? fitted(before, chosen) : moved(before, model)));
  }, [model?.id, chosen && limitsOf(chosen)]);
  useEffect(() => {
    if (!given) return;
    setWish(given);
    form.current.elements.prompt.focus();
  }, [given]);
  useEffect(() => {
    if (!early || !models) return;
    if (chosen || !model) setEarly(false);
    if (chosen) form.current.requestSubmit();
  }, [early, models, chosen?.id]);

  const excess = tooMuch(wish, chosen);
  const { isBusy, failure, send } = sender;

  function submit(event) {
    event?.preventDefault();
    // Enter asks for this even where the button is disabled. Nothing goes out before its model's sizes are in the form.
    if (!chosen) return setEarly(true);
    if (!excess && !isBusy) send(wish);
  }

  return html`<form class="wish" ref=${form} onSubmit=${submit}>
    <${Prompt} value=${wish.prompt} set=${set} />
    <${Notes} excess=${excess} model=${chosen} />
    <button type="submit" class="primary" disabled=${isBusy || !chosen || !!excess}>${isBusy || early ? "Sending" : "Generate"}</button>
    ${failure && html`<${Failure} failure=${failure} form=${wish} away=${away} retry=${() => submit()} />`}
    ${chosen && models.length > 1 && html`<${Choice} label="Model" id="model" value=${wish.model} names=${models.map((each) => each.id)}
      choose=${(id) => setWish(moved(wish, models.find((each) => each.id === id)))} />`}
    ${chosen &&
    html`<details class="settings" open=${WIDE}>
      <summary><span>Settings</span><span class="settled">${settled(wish)}</span></summary>
      <${Controls} wish=${wish} set=${set} model=${chosen} />
    </details>`}
  </form>`;
}

function settled(wish) {
  const seed = String(wish.seed).trim() ? `, seed ${wish.seed}` : "";
  return `${wish.width} × ${wish.height}, ${wish.num_inference_steps} steps${seed}`;
}

function Prompt({ value, set }) {
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  };
  return html`<label for="prompt">What should the picture show?</label>
    <textarea id="prompt" name="prompt" rows=${WIDE ? 3 : 1} maxlength="2000" required autofocus=${WIDE} enterkeyhint="send" placeholder="Describe a picture"
      aria-describedby="prompt-notes" value=${value} onInput=${(event) => set({ prompt: event.target.value })} onKeyDown=${onKeyDown}></textarea>`;
}

/** Lines under the prompt, in room that is kept for them: nothing moves while somebody types or turns a dial. */
function Notes({ excess, model }) {
  return html`<div id="prompt-notes" class="notes-line hint">
    ${excess && html`<p role="alert">${excess}</p>`}
    ${!excess && model?.state === "away" && html`<p role="status">No worker serves ${model.id} now: a picture would wait for one.</p>`}
    ${!excess && model?.state !== "away" && html`<p class="keys">Enter to generate, Shift+Enter for a new line</p>`}
  </div>`;
}
