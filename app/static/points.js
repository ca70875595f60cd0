// The controls of what is drawn from in the place of the prompt: a picture's variations, a way between two points, what
// one text has more than another. Knows the form; refuses to know how the service is told: that is pointed.js.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Choice, Dial, Slider } from "./controls.js";
import { Place, useUpload } from "./picture.js";
import { takes } from "./pictured.js";
import { along, begun, between, emptied, from, INVERTIBLE, kindOf, kindsOf, modeOf, modesOf, mostPlaces, openPoint } from "./pointed.js";

const MODES = {
  "": "The prompt",
  of: "A picture: variations of it",
  text: "A text",
  vector: "A vector",
  slerp: "A way between two",
  diff: "A picture or text, changed by words",
};
const KINDS = { of: "Picture", text: "Text", vector: "Vector" };
const ENDS = ["First", "Second"];

/** `set` takes the fields that change, `arrived` is a file {file} for the point that is open, `sending` what a place for a
 * picture needs. */
export function Points({ request, set, model, arrived, ...sending }) {
  const { image_embedding: points } = request;
  const latest = useRef();
  latest.current = points;
  const [incoming, setIncoming] = useState(null);
  // Once for each file: when it has come, another point may be open.
  useEffect(() => {
    if (arrived && points) setIncoming({ file: arrived.file, at: openPoint(points) });
  }, [arrived]);
  const bringing = (at) => ({ incoming: incoming?.at === at ? incoming : null, taken: () => setIncoming(null) });
  const mode = modeOf(points);
  const choose = (chosen) => set({ image_embedding: begun(chosen, model, points), start: "noise" });
  // A picture that was sent in comes later: what stands there by then is changed.
  const change = (values) => set({ image_embedding: { ...latest.current, ...values } });
  const kinds = kindsOf(model);
  return html`<div class="points">
    <${Choice} label="Draw from" id="points-draw-from" value=${mode} names=${modesOf(model, mode)} words=${MODES} choose=${choose} />
    ${points?.slerp?.map((point, at) => html`<${Point} key=${at} label=${`${ENDS[at]} point`} point=${point} kinds=${kinds}
      ...${bringing(at)} change=${(point) => change({ slerp: latest.current.slerp.with(at, point) })} ...${sending} />`)}
    ${points && !points.slerp && html`<${Point} label=${points.diff ? "Begin with" : "Picture"} point=${points} kinds=${points.diff ? kinds : []}
      ...${bringing(0)} change=${(point) => set({ image_embedding: from(point, latest.current) })} ...${sending} />`}
    ${points?.diff && html`<${Difference} diff=${points.diff} change=${(diff) => change({ diff })} />`}
    ${points?.at && html`<${Way} points=${points} model=${model} change=${change} />`}
    ${takes(model, "noise_level") && model.max_noise_level > 0 && html`<${Dial} name="noise_level" label="Noise on the embedding: more of it, more freedom" min="0"
      max=${model.max_noise_level} step="1" request=${request} set=${set} />`}
    ${takes(model, "start") && points?.of && html`<${Inversion} request=${request} set=${set} model=${model} />`}
  </div>`;
}

/** One point: a picture or a text, and which of the two if it can be either. */
function Point({ label, point, kinds, incoming, taken, change, count, note, away }) {
  const kind = kindOf(point);
  const [isLost, setLost] = useState(false);
  const upload = useUpload({ give, count, note });
  useEffect(() => {
    if (!incoming) return;
    upload.take(incoming.file);
    taken();
  }, [incoming]);
  function give(of) {
    setLost(false);
    change({ of });
  }
  const gone = () => {
    setLost(true);
    change({ of: null });
  };
  const choose = (chosen) => {
    upload.drop();
    change(emptied(chosen));
  };
  return html`<div class="adapter" role="group" aria-label=${label}>
    ${kinds.length > 1 && html`<${Choice} label=${label} id=${idOf(label)} value=${kind} names=${kinds.includes(kind) ? kinds : [...kinds, kind]} words=${KINDS} choose=${choose} />`}
    ${kind === "of" && html`<${Place} label=${`${label}: choose a picture`} name=${label} picture=${point.of} upload=${upload} remove=${() => change({ of: null })} gone=${gone} away=${away} />
      ${!point.of && isLost && html`<p class="hint" role="status">The picture that was here is not kept any more.</p>`}`}
    ${kind === "text" && html`<${Words} label=${`${label}: text`} value=${point.text} write=${(text) => change({ text })} />`}
    ${kind === "vector" && html`<p class="hint">A vector of ${Math.floor((3 * point.vector.length) / 16)} numbers, out of a record.</p>`}
  </div>`;
}

function Difference({ diff, change }) {
  return html`<${Words} label="From: what is there now" value=${diff.from} write=${(from) => change({ ...diff, from })} />
    <${Words} label="To: what it should become" value=${diff.to} write=${(to) => change({ ...diff, to })} />`;
}

/** How many places the way has, and how far it goes. */
function Way({ points, model, change }) {
  const { at, slerp } = points;
  const reach = at.at(-1);
  return html`<${Slider} label="Pictures on the way" min="1" max=${mostPlaces(model)} step="1" value=${at.length} change=${(count) => change({ at: slerp ? between(count) : along(count, reach) })} />
    ${!slerp && html`<${Slider} label="How far it goes" min="0.05" max="1" step="0.05" value=${reach} change=${(to) => change({ at: along(at.length, to) })} />`}`;
}

/** What is not changed stays where the picture is carried back to the noise that it could have been drawn from. */
function Inversion({ request, set, model }) {
  const known = INVERTIBLE.find((name) => model.schedulers.includes(name));
  if (!known) return null;
  const isInverted = request.start === "inverted";
  const scheduler = INVERTIBLE.includes(request.scheduler) ? request.scheduler : known;
  const turn = ({ target }) => set(target.checked ? { start: "inverted", scheduler } : { start: "noise" });
  return html`<label class="tick"><input type="checkbox" checked=${isInverted} onChange=${turn} /> Keep what is not changed: begin from the picture itself</label>
    ${isInverted && request.guidance_scale > 1 && html`<p class="hint">A guidance of 1 keeps the most.</p>`}`;
}

const idOf = (label) => `points-${label.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;

function Words({ label, value, write }) {
  return html`<div class="field">
    <label for=${idOf(label)}>${label}</label>
    <input id=${idOf(label)} dir="auto" autocomplete="off" value=${value} onInput=${({ target }) => write(target.value)} />
  </div>`;
}
