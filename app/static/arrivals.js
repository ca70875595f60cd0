// Pictures that are dropped or pasted anywhere on the page. One that was drawn here carries its settings: then it is asked
// which of the two is meant. Refuses to know how a picture is sent in.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";
import { fileOf } from "./picture.js";
import { recordOf } from "./record.js";
import { sightOfFile } from "./inputs.js";

const STILL_OVER_MS = 300;
/** A file that is held over the page says so more often than this, and does not tell when it leaves. */

/** Calls `arrive` with a file that is dropped or pasted. Answers whether one is held over the page. */
export function useArrivals(arrive) {
  const [isOver, setOver] = useState(false);
  const latest = useRef();
  latest.current = arrive;
  // As soon as there is a page: the browser leaves it for a file that nobody takes.
  useLayoutEffect(() => {
    let timer;
    const over = (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(true);
      clearTimeout(timer);
      timer = setTimeout(() => setOver(false), STILL_OVER_MS);
    };
    const drop = (event) => {
      setOver(false);
      const file = !event.defaultPrevented && fileOf(event.dataTransfer);
      if (!file) return;
      // Or the browser would leave the page for the file.
      event.preventDefault();
      latest.current(file);
    };
    const paste = (event) => {
      const file = fileOf(event.clipboardData);
      // Copied cells come as text and as a picture of it.
      if (!file?.type.startsWith("image/") || event.clipboardData.types.includes("text/plain")) return;
      event.preventDefault();
      latest.current(file);
    };
    addEventListener("dragover", over);
    addEventListener("drop", drop);
    addEventListener("paste", paste);
    return () => {
      clearTimeout(timer);
      removeEventListener("dragover", over);
      removeEventListener("drop", drop);
      removeEventListener("paste", paste);
    };
  }, []);
  return isOver;
}

/** What to do with a file: `load` gets the record inside, `take` the file. Answers {arrive, question}. */
export function useMeaning({ isTaken, load, take }) {
  const [asked, setAsked] = useState(null);
  const newest = useRef(null);
  const latest = useRef();
  latest.current = { isTaken, load, take };
  const arrive = async (file) => {
    newest.current = file;
    const record = await recordOf(file);
    // A large one is read for longer than one that came after it, and what it is for may be another thing by now.
    if (newest.current !== file) return;
    const { isTaken, load, take } = latest.current;
    if (record && !isTaken) load(record);
    if (record && isTaken) setAsked({ file, record });
    if (!record) setAsked(isTaken ? null : { file });
    if (!record && isTaken) take(file);
  };
  const answer = (act) => () => {
    setAsked(null);
    act();
  };
  const close = answer(() => {});
  const question = asked && html`<${Question} key=${asked.file} ...${asked} load=${answer(() => load(asked.record))} take=${answer(() => take(asked.file))} close=${close} />`;
  return { arrive, question };
}

function Question({ file, record, load, take, close }) {
  const [src, setSrc] = useState(null);
  const first = useRef(null);
  useEffect(() => {
    sightOfFile(file).then(setSrc, () => {});
    first.current?.focus();
  }, []);
  if (!record) {
    return html`<div class="trouble" role="status">
      <p>This picture carries no settings, and the model draws from words only.</p>
      <div class="row"><button type="button" class="small" onClick=${close}>Dismiss</button></div>
    </div>`;
  }
  return html`<div class="arrived" role="group" aria-label="What the picture is for">
    <div class="chosen">
      <span class="thumb">${src && html`<img src=${src} alt="" />`}</span>
      <div class="about"><p><strong>This picture was drawn here.</strong></p><p class="quiet recorded" dir="auto">${record.prompt}</p></div>
    </div>
    <div class="row">
      <button type="button" class="small" ref=${first} onClick=${load}>Load its settings</button>
      <button type="button" class="small" onClick=${take}>Draw from this picture</button>
      <button type="button" class="small" onClick=${close}>Cancel</button>
    </div>
  </div>`;
}
