// Small pieces that several parts of the page share.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { home } from "./api.js";
import { explain } from "./words.js";

/** An error in words, with what helps. `retry` adds a button. */
export function Trouble({ error, retry }) {
  const { title, lines, more } = explain(error);
  return html`<div class="trouble" role="alert">
    <strong>${title}</strong>
    ${lines.map((line) => html`<p>${line}</p>`)}
    <div class="row">
      ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
      ${more && html`<a href=${more}>What this means</a>`}
    </div>
  </div>`;
}

/** Where a picture is. Links that the gateway signed itself work under whatever name the page was reached. */
export function source(image) {
  const url = new URL(image.url, location.href);
  return url.pathname.startsWith(`${home}/pictures/`) ? url.pathname + url.search : image.url;
}

/** A finished picture. Its link ends after a while; then `renew` is asked once for a new one. */
export function Picture({ image, alt, renew }) {
  const renewed = useRef(false);
  const [broken, setBroken] = useState(false);
  const src = source(image);
  useEffect(() => setBroken(false), [src]);
  const onError = () => {
    if (renewed.current) setBroken(true);
    else renew?.();
    renewed.current = true;
  };
  if (broken) return html`<span class="lost">This picture cannot be loaded</span>`;
  return html`<img class="picture" src=${src} alt=${alt} width=${image.width} height=${image.height} decoding="async" onError=${onError} />`;
}

/** The progress of a job as a bar of its own. */
export function Bar({ job }) {
  const { step, steps } = job.progress;
  const known = job.status === "running" && steps > 0;
  return html`<progress max="1" value=${known ? step / steps : 0} aria-label="Progress"></progress>`;
}

/** Asks for the key when the service wants one. */
export function KeyForm({ onKey, wrong }) {
  const onSubmit = (event) => {
    event.preventDefault();
    onKey(new FormData(event.target).get("key").trim());
  };
  return html`<form class="trouble" onSubmit=${onSubmit}>
    <strong>This service asks for a key</strong>
    <p>${wrong ? "The service does not know that key." : "Whoever runs it can give you one."} It stays in this tab.</p>
    <label for="key">API key</label>
    <div class="row">
      <input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required />
      <button type="submit" class="primary">Open</button>
    </div>
  </form>`;
}
