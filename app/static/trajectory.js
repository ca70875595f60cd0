// How a picture emerged: its steps, to play, scrub and save. The service keeps them beside the picture, as a trajectory or
// as a sheet of previews; for a job that kept neither, there are the estimates that this tab saw.
// Refuses to know where a sheet lies: it is loaded by the link that the job says.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";
import { call } from "./api.js";
import { source } from "./parts.js";

const WHOLE_MS = 4_000;
const FRAME_MS = [60, 400];
/** As films are timed (app/contract/messages/trajectory.py). */

const CALM_MS = 500;
/** For who wants less motion: two frames a second at most. */

const SERIES = { estimate: "Estimate", noisy: "Noisy" };

/** What the slider moves over: `frames` of the picture in order, and which `series` they can show. Null while the steps
 * are fetched. `seen` are estimates of this tab as {step, source}. */
export function useFrames(job, image, seen) {
  const [steps, setSteps] = useState(null);
  const kept = image?.trajectory;
  useEffect(() => {
    if (!kept?.files.jpg) return;
    call(`/v1/jobs/${job.id}/images/${image.index}/trajectory.json`).then(setSteps, () => setSteps({ steps: [], show: [] }));
  }, [job.id, image?.index]);
  if (!image) return { frames: [], series: [] };
  if (kept?.files.jpg && !steps) return null;
  const seenSteps = (steps?.steps ?? []).filter(({ boxes }) => Object.keys(boxes).length);
  if (seenSteps.length) return { frames: seenSteps.map((step) => ({ ...step, sheet: kept.files.jpg })), series: steps.show };
  const { previews } = image;
  if (!previews) return { frames: seen, series: [] };
  return { frames: previews.steps.map((step, number) => ({ step, sheet: previews, boxes: { estimate: boxIn(previews, number) } })), series: [] };
}

function boxIn({ width, height, columns }, number) {
  return [(number % columns) * width, Math.floor(number / columns) * height, width, height];
}

/** Milliseconds that each frame is shown. */
export function pace(frames, isCalm) {
  const [shortest, longest] = FRAME_MS;
  const each = Math.min(longest, Math.max(shortest, WHOLE_MS / Math.max(1, frames)));
  return isCalm ? Math.max(CALM_MS, each) : each;
}

/** The player. `show` gets the chosen frame, with the series it is seen in; null for the finished picture. */
export function Trajectory({ job, image, frames, series, show }) {
  const last = frames.length;
  const [at, setAt] = useState(last);
  const [isPlaying, setPlaying] = useState(false);
  const [wanted, setWanted] = useState(series.includes("estimate") ? "estimate" : (series[0] ?? "estimate"));
  const move = (next, as = wanted) => {
    setAt(next);
    setWanted(as);
    show(seenAs(frames[next], as));
  };
  useEffect(() => {
    if (!isPlaying) return;
    if (at >= last) return setPlaying(false);
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const timer = setTimeout(() => move(at + 1), pace(last, isCalm));
    return () => clearTimeout(timer);
  }, [isPlaying, at]);
  if (last < 2) return null;
  const play = () => {
    if (!isPlaying && at >= last) move(0);
    setPlaying(!isPlaying);
  };
  const stepTo = (next) => {
    setPlaying(false);
    move(Math.min(last, Math.max(0, next)));
  };
  const words = frames[at] ? wordsOf(seenAs(frames[at], wanted)) : "Finished picture";
  return html`<div class="field dial trajectory" role="group" aria-label="Steps of the picture">
    <label for="trajectory">How it emerged</label>
    <output for="trajectory">${words}</output>
    <input id="trajectory" type="range" min="0" max=${last} step="1" value=${at} aria-valuetext=${words} onInput=${(event) => stepTo(Number(event.target.value))} />
    <div class="row player">
      <button type="button" class="small" aria-label="Step back" disabled=${at <= 0} onClick=${() => stepTo(at - 1)}>‹</button>
      <button type="button" class="small play" onClick=${play}>${isPlaying ? "Pause" : "Play"}</button>
      <button type="button" class="small" aria-label="Step forward" disabled=${at >= last} onClick=${() => stepTo(at + 1)}>›</button>
      ${series.length > 1 && html`<${Shown} series=${series} wanted=${wanted} choose=${(as) => move(at >= last ? 0 : at, as)} />`}
      <${Saves} job=${job} image=${image} />
    </div>
  </div>`;
}

/** A frame in the series in which it is seen: before its first evaluation a picture has no estimate. Null for none. */
function seenAs(frame, wanted) {
  if (!frame?.boxes) return frame ? { ...frame, series: "estimate" } : null;
  return { ...frame, series: frame.boxes[wanted] ? wanted : Object.keys(frame.boxes)[0] };
}

function wordsOf({ step, timestep, sigma, series }) {
  const more = [timestep != null && `timestep ${Math.round(timestep)}`, sigma != null && `sigma ${Number(sigma.toPrecision(3))}`].filter(Boolean);
  return [`${SERIES[series] ?? series} at step ${step}`, ...more].join(", ");
}

/** Which latents are looked at. */
function Shown({ series, wanted, choose }) {
  return html`<span class="row shown" role="group" aria-label="Latents that are shown">
    ${series.map((each) => html`<button type="button" class="small" aria-pressed=${each === wanted} onClick=${() => choose(each)}>${SERIES[each] ?? each}</button>`)}
  </span>`;
}

/** The files of a trajectory: a link of the store's may show a film instead of saving it, as it does a picture. */
function Saves({ job, image }) {
  const files = image.trajectory?.files ?? {};
  const saves = { webp: "Save film", safetensors: "Save numbers" };
  return Object.entries(saves)
    .filter(([kind]) => files[kind])
    .map(([kind, label]) => html`<a class="button small" href=${source(files[kind])} download=${`${job.id}-${image.index}-trajectory.${kind}`}>${label}</a>`);
}

/** One frame, as large as the picture. `renew` is asked for the job once when the sheet's link has ended. */
export function Estimate({ frame, image, renew }) {
  const alt = `${SERIES[frame.series] ?? "Estimate"} at step ${frame.step}`;
  if (!frame.sheet) return html`<img class="picture glimpse" src=${frame.source} alt=${alt} />`;
  return html`<${Cut} frame=${frame} image=${image} alt=${alt} renew=${renew} />`;
}

/** A frame of the sheet on a canvas. Drawing needs no right to read the store's pixels, and does not blur into the next frame. */
function Cut({ frame, image, alt, renew }) {
  const canvas = useRef(null);
  const sheet = useSheet(frame.sheet, renew);
  const [left, top, width, height] = frame.boxes[frame.series];
  // In the same turn as the step's name: an effect that runs later leaves the step before under it.
  useLayoutEffect(() => {
    if (sheet) canvas.current.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
  }, [sheet, left, top]);
  const proportions = { aspectRatio: `${image.width} / ${image.height}` };
  return html`<canvas ref=${canvas} class="picture glimpse" role="img" aria-label=${alt} width=${width} height=${height} style=${proportions} data-step=${sheet ? frame.step : ""}></canvas>`;
}

/** The sheet once it is loaded, null before. */
function useSheet(file, renew) {
  const [sheet, setSheet] = useState(null);
  const renewed = useRef(false);
  const src = source(file);
  useEffect(() => {
    const loading = new Image();
    loading.onload = () => setSheet(loading);
    loading.onerror = () => {
      if (!renewed.current) renew();
      renewed.current = true;
    };
    loading.src = src;
    return () => (loading.onload = loading.onerror = null);
  }, [src]);
  return sheet;
}
