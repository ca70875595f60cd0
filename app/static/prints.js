// The wall of prints: every job a sheet, the unfinished ones developing before one's eyes.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { PAGE } from "./darkroom.js";
import { Bar, Explained, Picture, Warnings } from "./parts.js";
import { frameNumbers } from "./walk.js";
import { count, explanation, isBlocked, isTerminal, seconds, shows, standing } from "./words.js";

const MOST_SHEETS = 5 * PAGE;
/** On the wall, until older ones are asked for: what a program draws in a day is more than a browser can show. */

export function Wall({ darkroom, onOpen, onAgain }) {
  const prints = darkroom.prints;
  const [most, setMost] = useState(MOST_SHEETS);
  const older = () => {
    setMost(most + PAGE);
    if (prints.length < most + PAGE && darkroom.cursor) darkroom.more();
  };
  if (!prints.length) return darkroom.loaded ? html`<${Empty} darkroom=${darkroom} onAgain=${onAgain} />` : null;
  return html`<ul class="wall">
      ${prints.slice(0, most).map((job) => html`<${Sheet} key=${job.id} job=${job} darkroom=${darkroom} onOpen=${onOpen} onAgain=${onAgain} />`)}
    </ul>
    ${(darkroom.cursor || prints.length > most) && html`<p class="row centre"><button type="button" onClick=${older}>Older prints</button></p>`}`;
}

const IDEAS = 3;

function Empty({ darkroom, onAgain }) {
  if (!darkroom.model) {
    return html`<div class="empty">
      <h2>No model is loaded yet</h2>
      <p>A worker announces its model when it has loaded it, usually within a minute. This page notices by itself.</p>
      <p>If it stays like this, see whether a worker runs: <code>darkroom doctor</code> tells.</p>
    </div>`;
  }
  const ideas = (darkroom.model.examples ?? []).slice(0, IDEAS);
  return html`<div class="empty">
    <h2>Nothing on the wall yet</h2>
    <p>Describe a picture and press Enter${ideas.length ? ", or start with one of these:" : "."}</p>
    ${ideas.length > 0 &&
    html`<p class="row centre">
      ${ideas.map((idea) => html`<button type="button" onClick=${() => onAgain({ prompt: idea })}>${idea}</button>`)}
    </p>`}
  </div>`;
}

function Sheet({ job, darkroom, onOpen, onAgain }) {
  const shown = useRef();
  const isSent = darkroom.sent === job.id;
  // Whoever had gone down the wall sees that something happens, and what.
  useEffect(() => isSent && shown.current.scrollIntoView({ block: "nearest" }), [isSent]);
  return html`<li class="sheet" ref=${shown} data-status=${job.status}>
    <div class=${`frames frames-${layout(job)}`}>${frames(job, darkroom, onOpen)}</div>
    <div class="caption">
      <p class="prompt" dir="auto" title=${shows(job.input)}>${shows(job.input)}</p>
      ${isTerminal(job) ? html`<${Ended} job=${job} darkroom=${darkroom} onAgain=${onAgain} />` : html`<${Unfinished} job=${job} darkroom=${darkroom} />`}
    </div>
  </li>`;
}

function layout(job) {
  const pictures = frameNumbers(job).length;
  return pictures === 1 ? 1 : pictures <= 4 ? 2 : 3;
}

function frames(job, darkroom, onOpen) {
  if (isTerminal(job) && !job.images.length) return html`<button class="frame blank" onClick=${() => onOpen(job.id, 0)} aria-label=${`Details: ${shows(job.input)}`}>
    ${isBlocked(job) ? "Not shown" : job.status === "failed" ? "No picture" : "Canceled"}
  </button>`;
  return frameNumbers(job).map((index) => html`<${Frame} key=${index} job=${job} index=${index} darkroom=${darkroom} onOpen=${onOpen} />`);
}

/** The frame's proportions come from the job, so that nothing jumps when the picture arrives. */
const proportions = ({ width, height }) => ({ aspectRatio: `${width} / ${height}` });

/** One button from the first step to the picture: whoever opened it meanwhile finds the focus on it again. */
function Frame({ job, index, darkroom, onOpen }) {
  const image = job.images.find((each) => each.index === index);
  const glimpse = darkroom.estimatesOf(job.id, index).at(-1);
  const kind = !image ? "frame developing" : image.nsfw ? "frame flagged" : "frame";
  const state = !image ? "not finished" : `seed ${image.seed}${image.nsfw ? ", flagged by the safety checker" : ""}`;
  return html`<button class=${kind} style=${proportions(image ?? job.input)} onClick=${() => onOpen(job.id, index)}
    aria-label=${`${shows(job.input)}, ${state}: details`}>
    ${glimpse ? html`<img class="glimpse" src=${glimpse.source} alt="" />` : !image && html`<span class="grain"></span>`}
    ${image && html`<${Picture} image=${image} alt=${shows(job.input)} renew=${() => darkroom.reload(job.id).catch(() => {})} />`}
  </button>`;
}

function Unfinished({ job, darkroom }) {
  return html`<${Bar} job=${job} />
    <div class="row spread">
      <span class="quiet">${standing(job)}</span>
      <button type="button" class="small" onClick=${() => darkroom.cancel(job.id)} aria-label=${`Cancel: ${shows(job.input)}`}>Cancel</button>
    </div>
    <${Warnings} warnings=${job.warnings} />`;
}

function Ended({ job, darkroom, onAgain }) {
  if (job.status === "succeeded") return html`<p class="quiet">${summary(job, darkroom)}</p><${Warnings} warnings=${job.warnings} />`;
  const more = explanation(job.error?.type);
  return html`<p class="quiet">${job.error?.detail ?? "Canceled before it was finished."}</p>
    <div class="row">
      ${isBlocked(job)
        ? html`<button type="button" class="small" onClick=${() => onAgain({ ...job.input, seed: "" })}>Try another seed</button>`
        : html`<button type="button" class="small" onClick=${() => onAgain(job.input)}>Draw again</button>`}
      <button type="button" class="small" onClick=${() => darkroom.remove(job.id)}>Remove</button>
      ${more && html`<${Explained} href=${more} />`}
    </div>`;
}

/** Which model it was where there are several to choose from. */
function summary(job, darkroom) {
  const many = job.images.length > 1 ? [count(job.images.length, "picture")] : [];
  const of = darkroom.models?.length > 1 ? [job.model] : [];
  return [...many, `${job.input.width} × ${job.input.height}`, seconds(job.timings.total), ...of].join(" · ");
}
