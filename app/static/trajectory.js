// How a picture emerged: the estimates this tab saw while it was drawn, on a slider. The service keeps only the newest.

import { html, useState } from "./preact-htm.js";

/** `frames` are {step, source} in order; `show` gets the chosen one, null for the finished picture. */
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
