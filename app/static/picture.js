// A place for a picture in the form: it is chosen, sent in, shown small, and taken out again.
// Refuses to know what the picture is for.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Failure, failureOf } from "./failure.js";
import { ACCEPTED, forgetSight, sightOf, sightOfFile, upload } from "./inputs.js";

const AGAIN_MS = 5_000;
/** After that a picture that could not be shown is asked for again. */

/** Sends files in, one at a time: a newer one takes the place of the one that is on its way. `give` gets the picture,
 * `count` 1 when a file sets out and -1 when it has come, with true when it has not, `note` every error. */
export function useUpload({ give, count, note }) {
  const [{ file, failure, isBusy, src }, setState] = useState({});
  const underway = useRef(null);
  // What stands on the page when the picture has come may be other than when it set out.
  const latest = useRef();
  latest.current = { give, count, note };
  useEffect(() => () => underway.current?.abort(), []);

  async function take(file) {
    underway.current?.abort();
    const mine = (underway.current = new AbortController());
    const become = (state) => !mine.signal.aborted && setState(state);
    become({ file, isBusy: true });
    sightOfFile(file).then((src) => become((state) => ({ ...state, src })), () => {});
    latest.current.count(1);
    let isMissed = false;
    try {
      const picture = await upload(file, [mine.signal]);
      if (!mine.signal.aborted) latest.current.give(picture);
      become({});
    } catch (error) {
      isMissed = !mine.signal.aborted;
      if (isMissed) latest.current.note(error);
      become({ file, failure: failureOf(error, {}) });
    }
    latest.current.count(-1, isMissed);
  }

  function drop() {
    underway.current?.abort();
    setState({});
  }

  return { take, drop, retry: () => take(file), isBusy, failure, src, isLocked: failure?.error.status === 401 };
}

/** `picture` is what stands there, or null; `remove` takes it out, `gone` is told that the service has lost it. What only
 * a chosen picture needs are the children. */
export function Place({ label, name, picture, upload, remove, gone, away, over, children }) {
  const taken = picture || upload.isBusy;
  const takeOut = () => {
    upload.drop();
    remove();
  };
  return html`<div class="place" role="group" aria-label=${label} ...${dropsInto(upload.take)}>
    ${taken
      ? html`<div class="chosen">
          ${upload.isBusy
            ? html`<span class="thumb">${upload.src ? html`<img src=${upload.src} alt="" />` : html`<span class="grain"></span>`}</span>`
            : html`<${Thumb} picture=${picture} gone=${gone}>${over}<//>`}
          <div class="about">
            <p class="quiet" role="status">${upload.isBusy ? "Sending the picture" : `${name}, ${picture.width} × ${picture.height}`}</p>
            <div class="row">${!upload.isBusy && children}
              <button type="button" class="small" onClick=${takeOut} aria-label=${`Remove: ${name}`}>Remove</button></div>
          </div>
        </div>`
      : html`<${Chooser} label=${label} ways=", or drop it here" take=${upload.take} />`}
    ${upload.failure && html`<${Failure} failure=${upload.failure} away=${away} retry=${upload.retry} dismiss=${upload.drop} />`}
    ${upload.isLocked && html`<div class="row"><button type="button" class="small" onClick=${upload.retry}>Send it again</button></div>`}
  </div>`;
}

/** Opens the browser's dialog for files. Its input is there for keys and screen readers, and not to be seen. */
export function Chooser({ label, ways, take }) {
  const onChange = ({ target }) => {
    if (target.files[0]) take(target.files[0]);
    // The same file may be chosen again.
    target.value = "";
  };
  return html`<label class="button small chooser"><span>${label}${ways && html`<span class="ways">${ways}</span>`}</span><input class="unseen" type="file" accept=${ACCEPTED} onChange=${onChange} /></label>`;
}

/** A small view of a picture, as soon as it is there. The children lie over it. */
export function Thumb({ picture, gone, children }) {
  const { src, renew } = useSight(picture, gone);
  const proportions = { aspectRatio: `${picture.width} / ${picture.height}` };
  return html`<span class="thumb" style=${proportions}>
    ${src ? html`<img src=${src} alt="" onError=${renew} />` : html`<span class="grain"></span>`}${children}
  </span>`;
}

/** Something for an <img>, null before it has come. `gone` is told once that it is not kept; `renew` asks once more. */
export function useSight(picture, gone) {
  const [src, setSrc] = useState(null);
  const [tries, setTries] = useState(0);
  const renewed = useRef(false);
  const name = picture && JSON.stringify(picture);
  useEffect(() => {
    let timer;
    let wanted = !!picture;
    setSrc(null);
    const missed = (error) => {
      if (wanted && error.status === 404) gone?.();
      else if (wanted) timer = setTimeout(() => setTries(tries + 1), AGAIN_MS);
    };
    if (wanted) sightOf(picture).then((found) => wanted && setSrc(found), missed);
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, [name, tries]);
  const renew = () => {
    if (renewed.current) return;
    renewed.current = true;
    forgetSight(picture);
    setTries(tries + 1);
  };
  return { src, renew };
}

/** Handlers for an element that files are dropped into, instead of into the page around it. */
function dropsInto(take) {
  return {
    onDrop: (event) => {
      const file = fileOf(event.dataTransfer);
      if (!file) return;
      event.preventDefault();
      event.stopPropagation();
      take(file);
    },
  };
}

/** The first picture of what was dropped or pasted; another file if there is none, for the service to refuse. */
export function fileOf(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find(({ type }) => type.startsWith("image/")) ?? files[0] ?? null;
}
