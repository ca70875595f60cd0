// The enlarger's controls: what to draw. What stands here outlives a reload and every refusal.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";
import { Adapters } from "./adapters.js";
import { useArrivals, useMeaning } from "./arrivals.js";
import { switched } from "./choices.js";
import { Choice, Controls } from "./controls.js";
import { keep, restored } from "./draft.js";
import { Failure } from "./failure.js";
import { Learned, Strangers, useStrangers } from "./learned.js";
import { useUpload } from "./picture.js";
import { missing, takes } from "./pictured.js";
import { missingPoint, opened, varies } from "./pointed.js";
import { Points } from "./points.js";
import { defaults, fitted, limitsOf, moved, requestOfRecord, sizeLike, tooMuch } from "./request.js";
import { Starting } from "./starting.js";

const WIDE = matchMedia("(min-width: 56rem)").matches;
/** Beside the wall there is room for the settings, and no keyboard on the screen that a focus would call up. */

/** `given` replaces the form's values each time it changes, or makes others of them; `sender` sends them in. `note` hears of errors of uploads. */
export function RequestForm({ models, model, given, sender, away, note }) {
  const [request, setRequest] = useState(() => restored(defaults(null)));
  const [early, setEarly] = useState(false);
  const [uploads, setUploads] = useState(0);
  const [lost, setLost] = useState(false);
  const [arrived, setArrived] = useState(null);
  const [replaced, setReplaced] = useState(0);
  const form = useRef();
  const sent = useRef(null);
  const chosen = models?.find((each) => each.id === request.model) ?? null;
  const set = (change) => setRequest((before) => ({ ...before, ...change }));
  const count = (more, isMissed) => {
    setUploads((before) => before + more);
    if (isMissed) setEarly(false);
  };
  const setOutBy = useRef(null);
  const setOut = (more, isMissed) => {
    if (more > 0) setOutBy.current = request;
    count(more, isMissed);
  };
  const upload = useUpload({ give: begin, count: setOut, note });
  const begins = takes(chosen, "image");
  const { arrive, question } = useMeaning({ isTaken: begins || varies(chosen), load, take: begins ? upload.take : vary });
  const isOver = useArrivals(arrive);

  // At once, not after the next frame: the page may be left before it.
  useLayoutEffect(() => keep(request), [request]);
  useEffect(() => {
    // By the limits of the model that is chosen when this is done: it may be another one by then.
    const fit = (before) => {
      const own = models.find((each) => each.id === before.model);
      return own ? fitted(before, own) : moved(before, model);
    };
    if (model) setRequest(fit);
  }, [model?.id, chosen && limitsOf(chosen)]);
  useEffect(() => {
    if (given) replace(typeof given === "function" ? given(request) : given);
  }, [given]);
  const excess = missing(request, chosen) ?? missingPoint(request) ?? tooMuch(request, chosen);
  const { isBusy, failure, send } = sender;
  useEffect(() => {
    if (!early || !models || isBusy || uploads) return;
    if (chosen || !model) setEarly(false);
    if (chosen && !failure) form.current.requestSubmit();
  }, [early, models, chosen?.id, isBusy, uploads]);

  function submit(event) {
    event?.preventDefault();
    // Enter asks for this even where the button is disabled. Nothing goes out before its model's sizes are in the form,
    // and what was typed while the one before is still on its way goes after it. Enter pressed twice is one picture.
    if (!chosen || uploads) return setEarly(true);
    if (isBusy) return setEarly(request !== sent.current);
    if (excess) return;
    sent.current = request;
    send(request);
  }

  function write(word) {
    set({ prompt: `${request.prompt.trimEnd()} ${word}`.trimStart() });
  }

  function take(prompt) {
    const field = form.current.elements.prompt;
    if (!field.value.trim()) return set({ prompt });
    // As if it were typed over what stands there, so that the browser's undo brings that back.
    field.focus();
    field.select();
    if (!document.execCommand("insertText", false, prompt)) set({ prompt });
  }

  /** A picture to begin with has come: the drawing is to be like it, unless a size was chosen while it was on its way. */
  function begin(image) {
    setLost(false);
    // Another model may have been chosen meanwhile, and one that takes no pictures.
    if (!begins) return;
    setRequest((before) => {
      const like = isResized(before, setOutBy.current) ? {} : sizeLike(image, chosen);
      return { ...before, image, mask_image: null, ...like };
    });
  }

  /** A file has come, and the model draws from pictures by their embedding alone. */
  function vary(file) {
    set({ image_embedding: opened(request.image_embedding, chosen), start: "noise" });
    setArrived({ file });
  }

  function load(record) {
    if (model) replace(requestOfRecord(record, models, chosen ?? model));
  }

  function replace(other) {
    upload.drop();
    setLost(false);
    setRequest(other);
    // Files that are on their way were for what stood here.
    setArrived(null);
    setReplaced((times) => times + 1);
    form.current.elements.prompt.focus();
  }

  return html`<form class=${isOver ? "request over" : "request"} ref=${form} onSubmit=${submit} onInvalidCapture=${unfold}>
    <${Prompt} value=${request.prompt} set=${set} isNeeded=${!request.image_embedding} />
    <${Notes} excess=${excess} model=${chosen} prompt=${request.prompt} isNeeded=${!request.image_embedding} set=${set} />
    <button type="submit" class="primary" disabled=${isBusy || !chosen || !!excess}>${isBusy || early ? "Sending" : "Generate"}</button>
    ${failure && html`<${Failure} failure=${failure} form=${request} away=${away} retry=${() => submit()} />`}
    ${question}
    ${begins && html`<${Starting} key=${`starting ${replaced}`} request=${request} set=${set} model=${chosen} upload=${upload} lost=${lost} setLost=${setLost} away=${away}
      count=${count} note=${note} />`}
    ${takes(chosen, "image_embedding") && html`<${Points} key=${`points ${replaced}`} request=${request} set=${set} model=${chosen} arrived=${arrived} away=${away} count=${count} note=${note} />`}
    ${chosen && html`<${Adapters} key=${`adapters ${replaced}`} request=${request} set=${set} model=${chosen} write=${write} away=${away} count=${count} note=${note} />`}
    ${chosen && models.length > 1 && html`<${Choice} label="Model" id="model" value=${request.model} names=${models.map((each) => each.id)}
      words=${told(models)} choose=${(id) => setRequest(switched(request, chosen, models.find((each) => each.id === id)))} />`}
    ${chosen && html`<${Learned} model=${chosen} take=${take} add=${write} />`}
    ${chosen &&
    html`<details class="settings" open=${WIDE}>
      <summary><span>Settings</span><span class="settled">${settled(request)}</span></summary>
      <${Controls} request=${request} set=${set} model=${chosen} />
    </details>`}
  </form>`;
}

/** The browser says what is wrong with a field only where it can be seen. */
function unfold({ target }) {
  for (let at = target.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
}

/** Was a size chosen since? Another model came with one of its own. */
function isResized({ model, width, height }, before) {
  return before.model === model && (before.width !== width || before.height !== height);
}

function settled(request) {
  const seed = String(request.seed).trim() ? `, seed ${request.seed}` : "";
  return `${request.width} × ${request.height}, ${request.num_inference_steps} steps${seed}`;
}

/** `isNeeded`: there is nothing else to draw from. */
function Prompt({ value, set, isNeeded }) {
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  };
  return html`<label for="prompt">What should the picture show?</label>
    <textarea id="prompt" name="prompt" dir="auto" rows=${WIDE ? 3 : 1} required=${isNeeded} autofocus=${WIDE} enterkeyhint="send" placeholder="Describe a picture"
      aria-describedby="prompt-notes" value=${value} onInput=${(event) => set({ prompt: event.target.value })} onKeyDown=${onKeyDown}></textarea>`;
}

/** Lines under the prompt, in room that is kept for them: nothing moves while somebody types or turns a dial. */
/** How the choice shows each model: those that would not draw now say so before they are chosen. */
function told(models) {
  const state = (each) => (each.paused ? "paused" : each.state);
  return Object.fromEntries(models.filter((each) => state(each) !== "ready").map((each) => [each.id, `${each.id} (${state(each)})`]));
}

function paused({ id, paused: { accepts, reason } }) {
  const why = reason ? ` (${reason})` : "";
  return `The operator has paused ${id}${why}: ${accepts ? "a picture would wait" : "it takes no requests"} until that is over.`;
}

function Notes({ excess, model, prompt, isNeeded, set }) {
  const strangers = useStrangers(prompt, model);
  return html`<div id="prompt-notes" class=${`notes-line hint ${model?.vocabulary?.length ? "judging" : ""}`}>
    <${Note} excess=${excess} model=${model} strangers=${strangers} prompt=${prompt} isNeeded=${isNeeded} set=${set} />
  </div>`;
}

/** What matters most of all there is to say. */
function Note({ excess, model, strangers, prompt, isNeeded, set }) {
  if (excess) return html`<p role="alert">${excess}</p>`;
  if (model?.paused) return html`<p role="status">${paused(model)}</p>`;
  if (model?.state === "away") return html`<p role="status">No worker serves ${model.id} now: a picture would wait for one.</p>`;
  if (strangers.length) return html`<${Strangers} strangers=${strangers} model=${model} text=${prompt} change=${(text) => set({ prompt: text })} />`;
  if (!isNeeded && prompt.trim()) return html`<p>These words are drawn from too. Without them, only what is chosen below is.</p>`;
  return html`<p class="keys">Enter to generate, Shift+Enter for a new line</p>`;
}
