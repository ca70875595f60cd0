// One picture, large: how it was made, how it emerged, and what to do with it next.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Bar, Picture, Trouble, Warnings, source } from "./parts.js";
import { Candidates } from "./judging.js";
import { verdict } from "./judged.js";
import { Origins, edited, modelFrom, modelVarying, printOf, varied } from "./origins.js";
import { mixed, variation } from "./pointed.js";
import { Sameness } from "./sameness.js";
import { Estimate, Trajectory, useFrames } from "./trajectory.js";
import { copy, recipes } from "./recipes.js";
import { moved } from "./request.js";
import { frameNumbers, neighbour, strokes } from "./walk.js";
import { imageOf, isTerminal, moment, shows, size, standing } from "./words.js";

const LONG_PROMPT = 150;
/** Characters. The heading is cut after some lines, so that what can be done stays in sight. */

/** `named` is {id, index}; `go` changes it, `close` ends it; `again` sends parameters in, `use` puts them into the form. */
export function Detail({ darkroom, named, go, close, again, use }) {
  const dialog = useRef(null);
  const latest = useRef();
  latest.current = named;
  const job = darkroom.jobs.get(named.id);
  const place = job && !frameNumbers(job).includes(named.index) ? { id: job.id, index: 0 } : named;
  useEffect(() => {
    const shown = dialog.current;
    shown.showModal();
    // The dialog itself, not its first control: a slider there would swallow the arrow keys.
    shown.focus();
    // Closed before it goes, so that the focus returns to where it was.
    return () => shown.close();
  }, []);
  useEffect(() => {
    // The control that had the focus may have gone with the last print.
    if (!dialog.current.contains(document.activeElement)) dialog.current.focus();
  }, [place.id, place.index]);
  const walk = async (step) => {
    let next = neighbour(darkroom.prints, place, step);
    if (!next && step > 0 && darkroom.cursor) {
      await darkroom.more();
      // Meanwhile it may have been closed, or another one opened.
      if (!dialog.current || latest.current !== named) return;
      next = neighbour(darkroom.prints, place, step);
    }
    if (next) go(next);
  };
  const onKeyDown = (event) => {
    if (["INPUT", "TEXTAREA"].includes(event.target.tagName)) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) walk(step);
  };
  const onClick = (event) => event.target === dialog.current && close();
  // One that has gone tells of its end as well, and by then another may be open.
  const onClose = () => dialog.current && close();
  return html`<dialog ref=${dialog} class="detail" tabindex="-1" aria-label="Picture and its parameters"
    onClose=${onClose} onKeyDown=${onKeyDown} onClick=${onClick} ...${strokes(walk)}>
    ${job
      ? html`<${Opened} key=${`${job.id} ${place.index}`} job=${job} index=${place.index} darkroom=${darkroom} close=${close} again=${again} use=${use} />`
      : html`<p class="quiet">Looking for this print</p>`}
    ${job &&
    html`<${Step} name="Previous print" sign="‹" end=${!neighbour(darkroom.prints, place, -1)} onClick=${() => walk(-1)} />
      <${Step} name="Next print" sign="›" end=${!neighbour(darkroom.prints, place, 1) && !darkroom.cursor} onClick=${() => walk(1)} />`}
  </dialog>`;
}

/** A stroke's way for those who have a mouse, or no steady hand. Not disabled at the end, or it would lose the focus. */
function Step({ name, sign, end, onClick }) {
  return html`<button type="button" class="step" aria-label=${name} aria-disabled=${end ? "true" : "false"} onClick=${onClick}>${sign}</button>`;
}

function Opened({ job, index, darkroom, close, again, use }) {
  const image = imageOf(job, index);
  const [frame, setFrame] = useState(null);
  const estimates = darkroom.estimatesOf(job.id, index);
  const steps = useFrames(job, image, estimates);
  const shown = image && !frame;
  const renew = () => darkroom.reload(job.id).catch(() => {});
  return html`<div class="easel">
      ${shown && html`<${Picture} image=${image} alt=${shows(job.input)} renew=${renew} />`}
      ${frame && html`<${Estimate} frame=${frame} image=${image} renew=${renew} />`}
      ${!image && estimates.length > 0 && html`<${Estimate} frame=${estimates.at(-1)} />`}
      ${!image && html`<p class="quiet">${standing(job)}</p>${!isTerminal(job) && html`<${Bar} job=${job} />`}`}
      ${image && steps && html`<${Trajectory} key=${steps.series.join()} job=${job} image=${image} ...${steps} show=${setFrame} />`}
    </div>
    <div class="notes">
      <div class="row spread top"><h2 dir="auto">${shows(job.input)}</h2><button type="button" class="small" onClick=${close}>Close</button></div>
      ${darkroom.trouble && html`<${Trouble} ...${darkroom.trouble} dismiss=${() => darkroom.dismiss()} />`}
      <${Actions} job=${job} index=${index} again=${again} use=${use} darkroom=${darkroom} />
      ${image && html`<${Sameness} job=${job} darkroom=${darkroom} />`}
      <${Warnings} warnings=${job.warnings} />
      <${Origins} input=${job.input} />
      <${Facts} job=${job} index=${index} />
      <${Candidates} selection=${job.selection} />
      <${Copies} input=${inputOf(job, index)} />
    </div>`;
}

/** Parameters of this one picture: picture k of a job is drawn from seed + k; those on a way have one seed, and a place each. */
function inputOf(job, index) {
  const { input } = job;
  const { at } = input.image_embedding ?? {};
  const seed = imageOf(job, index)?.seed ?? (at ? input.seed : String(BigInt(input.seed) + BigInt(index)));
  const place = at && { image_embedding: { ...input.image_embedding, at: [at[index]] } };
  return { ...input, ...place, seed, num_images: 1 };
}

function Actions({ job, index, again, use, darkroom }) {
  const image = imageOf(job, index);
  const { seed, ...unseeded } = inputOf(job, index);
  const model = image && modelFrom(job, darkroom);
  const varying = image && modelVarying(job, darkroom);
  const isVaried = varying && (!model || varying.id === job.model);
  const mixing = (request) => mixed(request.model === varying.id ? request : moved(request, varying), printOf(job, image), varying);
  return html`<div class="row actions">
    <button type="button" class="primary" onClick=${() => again({ ...unseeded, seed: "" })}>More like this</button>
    <button type="button" onClick=${() => again(job.input, { same_as: job.id })}>Same again</button>
    <button type="button" onClick=${() => use(inputOf(job, index))}>Use these settings</button>
    ${model && html`<button type="button" onClick=${() => use(edited(unseeded, job, image, model))}>Edit this</button>`}
    ${model && !isVaried && html`<button type="button" onClick=${() => again(varied(unseeded, job, image, model))}>Vary this</button>`}
    ${isVaried && html`<button type="button" onClick=${() => use(variation(unseeded, printOf(job, image), varying))}>Vary this</button>`}
    ${varying && html`<button type="button" onClick=${() => use(mixing)}>Mix this</button>`}
    ${image && html`<a class="button" href=${source(image)} download=${`${job.id}-${image.index}.${job.input.output_format}`}>Download</a>`}
    ${isTerminal(job)
      ? html`<${Twice} label="Delete" question=${job.images.length > 1 ? `Delete all ${job.images.length}?` : "Delete for good?"} act=${() => darkroom.remove(job.id)} />`
      : html`<button type="button" onClick=${() => darkroom.cancel(job.id)}>Cancel</button>`}
  </div>`;
}

/** A button that asks once before it does what cannot be undone. */
function Twice({ label, question, act }) {
  const [asked, setAsked] = useState(false);
  return html`<button type="button" class=${asked ? "danger" : ""} onBlur=${() => setAsked(false)} onClick=${() => (asked ? act() : setAsked(true))}>
    ${asked ? question : label}
  </button>`;
}

function Facts({ job, index }) {
  const { input } = job;
  const image = imageOf(job, index);
  const facts = {
    Seed: inputOf(job, index).seed,
    Size: `${input.width} × ${input.height}`,
    Steps: input.num_inference_steps,
    Guidance: input.guidance_scale,
    Scheduler: input.scheduler,
    "Place on the way": image?.at,
    "Near to": image?.embedding && nearness(image.embedding.cosine_to),
    Fits: image ? verdict(image) : "",
    Prompt: input.prompt.length > LONG_PROMPT ? input.prompt : "",
    "Not in it": input.negative_prompt,
    Model: job.requested_model ? `${job.model}, asked for as ${job.requested_model}` : job.model,
    Took: job.timings.total == null ? "" : `${job.timings.total.toFixed(2)} s, ${job.timings.queued?.toFixed(2) ?? 0} s of it waiting`,
    File: image ? `${image.content_type}, ${size(image.bytes)}` : "",
    "Safety checker": image?.nsfw == null ? "" : image.nsfw ? "flagged this picture" : "found nothing",
    Made: moment(job.ended_at),
    "Kept until": moment(job.expires_at),
    Job: job.id,
  };
  const rows = Object.entries(facts).filter(([, value]) => value !== "" && value != null);
  return html`<dl>${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd dir="auto">${value}</dd></div>`)}</dl>`;
}

/** How near the embedding that was drawn from is to the texts beside it, as cosines. */
function nearness(cosines) {
  return Object.entries(cosines).map(([name, cosine]) => `${name} ${cosine.toFixed(3)}`).join(", ");
}

function Copies({ input }) {
  const [shown, setShown] = useState(null);
  const texts = recipes(input);
  const onCopy = async (name) => setShown({ name, copied: await copy(texts[name]) });
  return html`<div class="copies">
    <span class="quiet" id="copy-as">Copy as</span>
    <div class="row" role="group" aria-labelledby="copy-as">
      ${Object.keys(texts).map((name) => html`<button type="button" class="small" onClick=${() => onCopy(name)}>${name}</button>`)}
    </div>
    <p class="quiet" role="status">${shown && (shown.copied ? `Copied as ${shown.name}` : "Select the text and copy it")}</p>
    ${shown && html`<pre tabindex="0" aria-label=${shown.name}>${texts[shown.name]}</pre>`}
  </div>`;
}
