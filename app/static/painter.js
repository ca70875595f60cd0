// Painting a mask over a picture: with a mouse, a pen, a finger, or keys. Every stroke can be taken back.
// Knows pointers, keys and a canvas; what a mask is says mask.js.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";
import { loaded, sightOf } from "./inputs.js";
import { did, inkOf, isBlank, redid, replay, stroke, undid, untouched } from "./mask.js";
import { Chooser, useSight } from "./picture.js";

const LONGER_SIDE = 1_024;
/** Of the canvas that is painted on, about as fine as a screen shows it. The file has the picture's own size. */
const SIZES = { least: 0.01, usual: 0.12, most: 0.5 };
/** Of the brush, as parts of the picture's longer side. */
const ERASER_BUTTON = 32;
/** Of a pen that is held the other way round: Pointer Events, "Chorded button interactions". */
const COLOUR = "#f03a24";
/** Of the mask over its picture. */

/** `change` gets the mask at every stroke, `close` whether nothing is painted, `load` a file that is to be the mask. The children
 * are what there is to say of that. */
export function Painter({ picture, mask = untouched(), change, close, load, children }) {
  const dialog = useRef(null);
  const canvas = useRef(null);
  const [erase, setErase] = useState(false);
  const longer = Math.max(picture.width, picture.height);
  const [size, setSize] = useState(SIZES.usual);
  const { src } = useSight(picture);
  const base = useBase(mask.base);

  useEffect(() => {
    const shown = dialog.current;
    shown.showModal();
    canvas.current.focus();
    return () => shown.close();
  }, []);
  useLayoutEffect(() => replay(canvas.current, mask, picture, base, COLOUR), [mask, base]);

  // A dialog that goes tells of its end once more.
  const end = () => canvas.current && close(isBlank(canvas.current));
  const resize = (by) => setSize(Math.min(SIZES.most, Math.max(SIZES.least, size * by)));
  const onKeyDown = (event) => {
    // The dialog stands in the form, which Enter in a field would send.
    if (event.key === "Enter" && event.target.tagName === "INPUT") event.preventDefault();
    const act = keyAct(event);
    if (!act) return;
    event.preventDefault();
    ({ undo: () => change(undid(mask)), redo: () => change(redid(mask)), smaller: () => resize(0.8), larger: () => resize(1.25) })[act]();
  };
  return html`<dialog ref=${dialog} class="painter" aria-label="Paint where the picture is drawn anew" onClose=${end} onKeyDown=${onKeyDown}>
    <div class="row spread top"><h2>Paint over what is to be drawn anew</h2>
      <button type="button" class="primary" onClick=${end}>Done</button></div>
    <${Stage} canvas=${canvas} picture=${picture} src=${src} brush=${{ size: size * longer, erase }} add=${(act) => change(did(mask, act))}
      restore=${() => replay(canvas.current, mask, picture, base, COLOUR)} />
    <div class="row tools">
      <div class="row" role="group" aria-label="Tool">
        <button type="button" class="small" aria-pressed=${String(!erase)} onClick=${() => setErase(false)}>Brush</button>
        <button type="button" class="small" aria-pressed=${String(erase)} onClick=${() => setErase(true)}>Eraser</button>
      </div>
      <label class="brush">Size <input type="range" aria-label="Size of the brush" min=${SIZES.least} max=${SIZES.most} step="0.01" value=${size}
        onInput=${(event) => setSize(Number(event.target.value))} /></label>
      <button type="button" class="small" disabled=${!mask.done.length} onClick=${() => change(undid(mask))}>Undo</button>
      <button type="button" class="small" disabled=${!mask.undone.length} onClick=${() => change(redid(mask))}>Redo</button>
      <button type="button" class="small" onClick=${() => change(did(mask, { invert: true }))}>Invert</button>
      <button type="button" class="small" onClick=${() => change(did(mask, { clear: true }))}>Clear</button>
      <${Chooser} label="Use a file as the mask" take=${load} />
    </div>
    ${children}
    <p class="hint" id="painting-keys">By keys: arrows move the brush, Space paints, Shift with an arrow draws a line, [ and ] change the size.</p>
  </dialog>`;
}

function keyAct({ key, ctrlKey, metaKey, altKey, shiftKey }) {
  // On some keyboards a bracket is written with Ctrl and Alt.
  if ((ctrlKey || metaKey) && !altKey) return { z: shiftKey ? "redo" : "undo", Z: "redo", y: "redo" }[key];
  return { "[": "smaller", "]": "larger" }[key];
}

/** The picture with the mask over it. `add` gets a stroke when it is over, `restore` takes an unfinished one away. */
function Stage({ canvas, picture, src, brush, add, restore }) {
  const [at, setAt] = useState(null);
  const under = useRef(null);
  const pointer = useRef(null);
  const { width, height } = picture;
  const scale = LONGER_SIDE / Math.max(width, height);
  const inside = { width: `${(100 * brush.size) / width}%`, left: `${(100 * at?.x) / width}%`, top: `${(100 * at?.y) / height}%` };

  const isOurs = ({ pointerId }) => pointerId === pointer.current;
  const paint = (act) => stroke(inkOf(canvas.current), act, COLOUR);
  const onPointerDown = (event) => {
    // One at a time: each kind has a primary one, as the hand that rests beside a pen.
    if (under.current || !event.isPrimary || (event.button !== 0 && !(event.buttons & ERASER_BUTTON))) return;
    event.target.setPointerCapture(event.pointerId);
    pointer.current = event.pointerId;
    const { x, y } = placeOf(event, picture);
    under.current = { points: [x, y], size: round(brush.size), erase: brush.erase || !!(event.buttons & ERASER_BUTTON) };
    paint(under.current);
    setAt({ x, y });
  };
  const onPointerMove = (event) => {
    if (under.current ? !isOurs(event) : !event.isPrimary) return;
    setAt(placeOf(event, picture));
    const line = under.current;
    if (!line) return;
    // A fast hand is at many places between two frames.
    const seen = event.getCoalescedEvents?.() ?? [];
    for (const each of seen.length ? seen : [event]) {
      const { x, y } = placeOf(each, picture);
      paint({ ...line, points: [...line.points.slice(-2), x, y] });
      line.points.push(x, y);
    }
  };
  const onPointerUp = (event) => {
    if (!under.current || !isOurs(event)) return;
    add(under.current);
    under.current = null;
  };
  const onPointerCancel = (event) => {
    if (!isOurs(event)) return;
    under.current = null;
    restore();
  };
  const onKeyDown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const from = at ?? { x: width / 2, y: height / 2 };
    const to = { x: within(from.x + (step[0] * brush.size) / 2, width), y: within(from.y + (step[1] * brush.size) / 2, height) };
    setAt(to);
    if (event.key === " " || event.shiftKey) add({ points: [from.x, from.y, to.x, to.y], size: round(brush.size), erase: brush.erase });
  };
  return html`<div class="stage" style=${{ aspectRatio: `${width} / ${height}`, maxWidth: `calc((100dvh - 15rem) * ${width / height})` }}>
    ${src ? html`<img src=${src} alt="" draggable=${false} />` : html`<span class="grain"></span>`}
    <canvas ref=${canvas} tabindex="0" role="application" aria-roledescription="painting" aria-label="Mask" aria-describedby="painting-keys"
      width=${Math.max(1, Math.round(width * scale))} height=${Math.max(1, Math.round(height * scale))}
      onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onPointerUp=${onPointerUp} onPointerCancel=${onPointerCancel} onLostPointerCapture=${onPointerUp}
      onFocus=${() => setAt((before) => before ?? { x: width / 2, y: height / 2 })} onKeyDown=${onKeyDown}></canvas>
    ${at && html`<span class=${brush.erase ? "ring erasing" : "ring"} style=${inside}></span>`}
  </div>`;
}

/** Where a pointer is, in the picture's pixels. A stroke may leave the picture and come back. */
function placeOf({ clientX, clientY, target }, { width, height }) {
  const box = target.getBoundingClientRect();
  return { x: round(((clientX - box.left) / box.width) * width), y: round(((clientY - box.top) / box.height) * height) };
}

const round = (pixels) => Math.round(10 * pixels) / 10;
const within = (pixels, most) => round(Math.min(most, Math.max(0, pixels)));

/** The picture that a mask began with, as an image; null while there is none. */
export function useBase(base) {
  const [image, setImage] = useState(null);
  const name = base && JSON.stringify(base);
  useEffect(() => {
    let wanted = true;
    setImage(null);
    if (base) sightOf(base).then(loaded).then((found) => wanted && setImage(found), () => {});
    return () => (wanted = false);
  }, [name]);
  return image;
}

/** The mask over a small view of its picture. */
export function MaskOver({ picture, mask }) {
  const canvas = useRef(null);
  const base = useBase(mask.base);
  useLayoutEffect(() => replay(canvas.current, mask, picture, base, COLOUR), [mask, base]);
  return html`<canvas ref=${canvas} class="mask" width="144" height=${Math.max(1, Math.round((144 * picture.height) / picture.width))}></canvas>`;
}
