// Small pieces that several parts of the page share.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";
import { home } from "./api.js";

const AGAIN_MS = 5_000;
const MOST_TRIES = 7;
/** Of a picture that could not be loaded: about ten minutes. */

/** Draws the component anew at every change of a state that can be subscribed to. */
export function useChanges(of) {
  const [, again] = useState(0);
  // Not after the next frame: a tab behind others has none, and a change before it would be told to nobody.
  useLayoutEffect(() => of.subscribe(() => again((times) => times + 1)), []);
}

/** A link to the page that explains a problem. In a tab of its own: what stands on this page stays. */
export function Explained({ href }) {
  return html`<a href=${href} target="_blank" rel="noopener">What this means<span class="unseen"> (in a new tab)</span></a>`;
}

/** What went wrong with something that was asked for, until it is dismissed. */
export function Trouble({ title, lines, more, dismiss }) {
  return html`<section class="trouble" role="alert"><strong>${title}</strong>${lines.map((line) => html`<p>${line}</p>`)}
    <div class="row"><button type="button" class="small" onClick=${dismiss}>Dismiss</button>${more && html`<${Explained} href=${more} />`}</div>
  </section>`;
}

/** What a job has to say beside its result, in one line until it is opened: a warning may quote a whole prompt. */
export function Warnings({ warnings }) {
  if (!warnings?.length) return null;
  return html`<details class="warnings">
    <summary>${warnings.length > 1 ? `${warnings.length} warnings: ` : "Warning: "}${warnings[0]}</summary>
    ${warnings.map((warning) => html`<p>${warning}</p>`)}
  </details>`;
}

/** Where a picture is. Links that the gateway signed itself work under whatever name, and below whatever path, the page is. */
export function source(image) {
  const url = new URL(image.url, document.baseURI);
  const [, own] = url.pathname.match(/\/(pictures\/images\/.+)$/) ?? [];
  return own && url.searchParams.has("signature") ? `${home}/${own}${url.search}` : image.url;
}

/** A finished picture. Its link ends after a while; then `renew` is asked once for a new one. What was an outage passes:
 * the picture is asked for again, each time after twice as long. */
export function Picture({ image, alt, renew }) {
  const [failed, setFailed] = useState(0);
  const [tried, setTried] = useState(0);
  const link = useRef({});
  const newest = source(image);
  const [place] = newest.split("?");
  // A bucket signs another link for every answer: each would be the whole picture once more.
  if (link.current.place !== place || link.current.tried !== tried) link.current = { place, tried, src: newest };
  const isRenewed = failed === 1 && newest !== link.current.src;
  useLayoutEffect(() => {
    setFailed(0);
    setTried(0);
  }, [place]);
  useEffect(() => {
    if (failed <= tried || failed > MOST_TRIES) return;
    const timer = setTimeout(() => setTried(failed), isRenewed ? 0 : AGAIN_MS * 2 ** tried);
    return () => clearTimeout(timer);
  }, [failed, tried, isRenewed]);
  const onError = () => {
    if (!failed) renew?.();
    setFailed(tried + 1);
  };
  if (failed > tried && failed > 1) return html`<span class="lost">This picture cannot be loaded</span>`;
  return html`<img key=${tried} class="picture" src=${link.current.src} alt=${alt} width=${image.width} height=${image.height} decoding="async" onError=${onError} />`;
}

/** The progress of a job as a bar of its own. */
export function Bar({ job }) {
  const { step, steps } = job.progress;
  const known = job.status === "running" && steps > 0;
  return html`<progress max="1" value=${known ? step / steps : 0} aria-label="Progress"></progress>`;
}

/** Asks for the key when the service wants one. */
export function KeyForm({ title = "This service asks for a key", label = "API key", onKey, wrong }) {
  const onSubmit = (event) => {
    event.preventDefault();
    onKey(new FormData(event.target).get("key").trim());
  };
  return html`<form class="trouble" onSubmit=${onSubmit}>
    <strong>${title}</strong>
    <p>${wrong ? "The service does not know that key." : "Whoever runs the service can give you one."} It stays in this tab.</p>
    <label for="key">${label}</label>
    <div class="row">
      <input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required />
      <button type="submit" class="primary">Open</button>
      ${wrong && html`<button type="button" onClick=${() => onKey("")}>Go on without a key</button>`}
    </div>
  </form>`;
}
