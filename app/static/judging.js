// How many pictures are drawn to choose from, and by what: the controls, and what came of it beside a picture.

import { html } from "./preact-htm.js";
import { fate, verdict } from "./judged.js";
import { takes } from "./pictured.js";
import { count } from "./words.js";

/** Nothing where the model is served beside no scorer. A way's places are all wanted: nothing is chosen among them. */
export function Judging({ request, set, model }) {
  if (!takes(model, "expect")) return null;
  const number = (name) => ({ target }) => set({ [name]: target.value === "" ? "" : Number(target.value) });
  return html`${!request.image_embedding?.at && html`<div class="pair">
      <div class="field"><label for="best-of">Draw so many, keep the best</label>
        <input id="best-of" type="number" min=${request.num_images} max=${model.max_images} step="1" placeholder="all are kept" autocomplete="off"
          value=${request.best_of} onInput=${number("best_of")} /></div>
      <div class="field"><label for="min-probability">Draw again below a probability of</label>
        <input id="min-probability" type="number" min="0" max="1" step="any" placeholder="never" autocomplete="off"
          value=${request.min_probability} onInput=${number("min_probability")} /></div>
    </div>`}
    <div class="field"><label for="expect">Expect in the picture, a text in each line</label>
      <textarea id="expect" dir="auto" rows="2" placeholder="the prompt" value=${(request.expect ?? []).join("\n")}
        onInput=${({ target }) => set({ expect: target.value ? target.value.split("\n") : null })}></textarea></div>`;
}

/** All that were drawn for a job, and how well each fits. */
export function Candidates({ selection }) {
  if (!selection) return null;
  const { candidates, texts, scorer } = selection;
  const kept = candidates.filter((each) => each.kept).length;
  return html`<details class="candidates">
    <summary>${count(candidates.length, "picture")} drawn, ${kept} kept</summary>
    <p class="hint">Scored by ${scorer} for ${texts.map((text) => `“${text}”`).join(", ")}.</p>
    <ul>${candidates.map((each) => html`<li class=${each.kept ? "kept" : "quiet"}>Seed ${each.seed}: ${[verdict(each), fate(each)].filter(Boolean).join(", ")}</li>`)}</ul>
  </details>`;
}
