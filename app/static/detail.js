// One picture, large: how it was made, how it emerged, and what to do with it next.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Picture, source } from "./parts.js";
import { Sameness } from "./sameness.js";
import { Estimate, Trajectory, framesOf } from "./trajectory.js";
import { copy, recipes } from "./recipes.js";
import { moment, size, standing } from "./words.js";

/** `place` is {id, index}; `go` changes it, `close` ends it; `again` sends parameters in. */
export function Detail({ room, place, go, close, again, use }) {
  const dialog = useRef(null);
  const job = room.jobs.get(place.id);
  useEffect(() => {
    if (!dialog.current.open) dialog.current.showModal();
    // The dialog itself, not its first control: a slider there would swallow the arrow keys.
    dialog.current.focus();
  }, [place]);
  useEffect(() => {
    if (!job) close();
  }, [!job]);
  const onKeyDown = (event) => {
    if (["INPUT", "TEXTAREA"].includes(event.target.tagName)) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step && neighbour(room, place, step);
    if (next) go(next);
  };
  const onClick = (event) => event.target === dialog.current && close();
  return html`<dialog ref=${dialog} class="detail" tabindex="-1" aria-label="Picture and its parameters"
    onClose=${close} onKeyDown=${onKeyDown} onClick=${onClick}>
    ${job &&
    html`<${Opened} key=${`${job.id} ${place.index}`} job=${job} index=${place.index} room=${room} close=${close} again=${again} use=${use} />`}
  </dialog>`;
}

/** The picture before or after in the order of the wall, across jobs; null at its ends. */
function neighbour(room, { id, index }, step) {
  const all = room.prints.flatMap((job) => job.images.map((image) => ({ id: job.id, index: image.index })));
  const at = all.findIndex((each) => each.id === id && each.index === index);
  return at < 0 ? null : (all[at + step] ?? null);
}

function Opened({ job, index, room, close, again, use }) {
  const image = job.images[index];
  const [frame, setFrame] = useState(null);
  const shown = image && !frame;
  const renew = () => room.reload(job.id).catch(() => {});
  return html`<div class="easel">
      ${shown && html`<${Picture} image=${image} alt=${job.input.prompt} renew=${renew} />`}
      ${frame && html`<${Estimate} frame=${frame} image=${image} renew=${renew} />`}
      ${!image && html`<p class="quiet">${standing(job)}</p>`}
      ${image && html`<${Trajectory} frames=${framesOf(image, room.estimatesOf(job.id, index))} show=${setFrame} />`}
    </div>
    <div class="notes">
      <div class="row spread top"><h2>${job.input.prompt}</h2><button type="button" class="small" onClick=${close}>Close</button></div>
      <${Actions} job=${job} image=${image} close=${close} again=${again} use=${use} room=${room} />
      ${image && html`<${Sameness} job=${job} room=${room} />`}
      ${job.warnings.map((warning) => html`<p class="hint">${warning}</p>`)}
      <${Facts} job=${job} image=${image} />
      <${Copies} input=${inputOf(job, image)} />
    </div>`;
}

/** Parameters of this one picture: picture k of a job is drawn from seed + k. */
function inputOf(job, image) {
  return image ? { ...job.input, seed: image.seed, num_images: 1 } : job.input;
}

function Actions({ job, image, close, again, use, room }) {
  const { seed, ...unseeded } = inputOf(job, image);
  const removed = () => room.remove(job.id).then(close);
  return html`<div class="row actions">
    <button type="button" class="primary" onClick=${() => again({ ...unseeded, seed: "" })}>More like this</button>
    <button type="button" onClick=${() => again(job.input, { same_as: job.id })}>Same again</button>
    <button type="button" onClick=${() => use(inputOf(job, image))}>Use these settings</button>
    ${image && html`<a class="button" href=${source(image)} download=${`${job.id}-${image.index}.${job.input.output_format}`}>Download</a>`}
    <${Twice} label="Delete" question=${job.images.length > 1 ? `Delete all ${job.images.length}?` : "Delete for good?"} act=${removed} />
  </div>`;
}

/** A button that asks once before it does what cannot be undone. */
function Twice({ label, question, act }) {
  const [asked, setAsked] = useState(false);
  return html`<button type="button" class=${asked ? "danger" : ""} onBlur=${() => setAsked(false)} onClick=${() => (asked ? act() : setAsked(true))}>
    ${asked ? question : label}
  </button>`;
}

function Facts({ job, image }) {
  const { input } = job;
  const facts = {
    Seed: image?.seed ?? input.seed,
    Size: `${input.width} × ${input.height}`,
    Steps: input.num_inference_steps,
    Guidance: input.guidance_scale,
    Scheduler: input.scheduler,
    "Not in it": input.negative_prompt,
    Model: job.model,
    Took: job.timings.total == null ? "" : `${job.timings.total.toFixed(2)} s, ${job.timings.queued?.toFixed(2) ?? 0} s of it waiting`,
    File: image ? `${image.content_type}, ${size(image.bytes)}` : "",
    Made: moment(job.ended_at),
    "Kept until": moment(job.expires_at),
    Job: job.id,
  };
  const rows = Object.entries(facts).filter(([, value]) => value !== "" && value != null);
  return html`<dl>${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
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
