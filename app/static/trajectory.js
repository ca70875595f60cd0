// How a picture emerged: its estimates on a slider. The service keeps them beside the picture, in one sheet of frames;
// for a job that kept none, there are those that this tab saw.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { source } from "./parts.js";

/** The frames of a picture, in order: cut from its sheet, else `seen` as {step, source}. */
export function framesOf(image, seen) {
  const { previews } = image;
  if (!previews) return seen;
  return previews.steps.map((step, number) => ({ step, previews, number }));
}

/** `show` gets the chosen frame, null for the finished picture. */
export function Trajectory({ frames, show }) {
  const [at, setAt] = useState(frames.length);
  if (frames.length < 2) return null;
  const move = (event) => {
    const next = Number(event.target.value);
    setAt(next);
    show(frames[next] ?? null);
  };
  const words = frames[at] ? `Estimate at step ${frames[at].step}` : "Finished picture";
  return html`<div class="field dial trajectory">
    <label for="trajectory">How it emerged</label>
    <output for="trajectory">${words}</output>
    <input id="trajectory" type="range" min="0" max=${frames.length} step="1" value=${at} aria-valuetext=${words} onInput=${move} />
  </div>`;
}

/** One estimate, as large as the picture. `renew` is asked for the job once when the sheet's link has ended. */
export function Estimate({ frame, image, renew }) {
  const alt = `Estimate at step ${frame.step}`;
  if (!frame.previews) return html`<img class="picture glimpse" src=${frame.source} alt=${alt} />`;
  return html`<${Cut} frame=${frame} image=${image} alt=${alt} renew=${renew} />`;
}

/** A frame of the sheet on a canvas. Drawing needs no right to read the store's pixels, and does not blur into the next frame. */
function Cut({ frame, image, alt, renew }) {
  const canvas = useRef(null);
  const sheet = useSheet(frame.previews, renew);
  const { width, height, columns } = frame.previews;
  useEffect(() => {
    if (!sheet) return;
    const [left, top] = [(frame.number % columns) * width, Math.floor(frame.number / columns) * height];
    canvas.current.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
  }, [sheet, frame.number]);
  const proportions = { aspectRatio: `${image.width} / ${image.height}` };
  return html`<canvas ref=${canvas} class="picture glimpse" role="img" aria-label=${alt} width=${width} height=${height} style=${proportions} data-step=${sheet ? frame.step : ""}></canvas>`;
}

/** The sheet once it is loaded, null before. */
function useSheet(previews, renew) {
  const [sheet, setSheet] = useState(null);
  const renewed = useRef(false);
  const src = source(previews);
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
