// What went wrong with sending a request in, for as long as its cause is there: a field that was not changed, a service
// that is away, a wait that is not over. Then it offers to send again, or goes.

import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Refused, Unreachable } from "./api.js";
import { Explained } from "./parts.js";
import { explain, fieldOf, seconds } from "./words.js";

/** An error with what was sent and when another try makes sense (performance.now, milliseconds). */
export function failureOf(error, sent) {
  return { error, sent, until: error.retryAfter ? performance.now() + 1_000 * error.retryAfter : null };
}

/** What is left of a failure: {title, lines, more, isTerminal}, or null once its cause is gone. `form` is what stands there now. */
export function remaining({ error, sent, until }, { form = sent, away, now }) {
  if (error.status === 401) return null;
  if (isPassing(error)) return until > now || isAway(error, away) ? explain(error) : { ...explain(error), isTerminal: true };
  const wrong = (error.problem?.errors ?? []).filter((each) => sameField(fieldOf(each), sent, form));
  const isUnchanged = error.problem?.errors?.length ? wrong.length > 0 : sameField("", sent, form);
  return isUnchanged ? explain(error, wrong) : null;
}

/** Whether the request may be taken later as it is. */
function isPassing(error) {
  return error instanceof Unreachable || (error instanceof Refused && [429, 503].includes(error.status));
}

function isAway(error, away) {
  return away && error.status !== 429;
}

function sameField(name, sent, form) {
  return name in sent ? sent[name] === form[name] : JSON.stringify(sent) === JSON.stringify(form);
}

/** `form` is left out where there is none to change; then `dismiss` takes the failure away. */
export function Failure({ failure, form, away, retry, dismiss }) {
  const now = useClock(failure.until);
  const shown = useRef(null);
  useEffect(() => shown.current?.scrollIntoView({ block: "nearest" }), [failure]);
  const left = remaining(failure, { form, away, now });
  if (!left) return null;
  const wait = failure.until > now ? Math.ceil((failure.until - now) / 1_000) : 0;
  return html`<div class=${left.isTerminal ? "trouble mended" : "trouble"} ref=${shown}>
    <div role=${left.isTerminal ? "status" : "alert"}>
      <strong>${left.isTerminal ? "It can be sent now" : left.title}</strong>
      ${left.isTerminal ? html`<p>The picture was not sent before.</p>` : left.lines.map((line) => html`<p>${line}</p>`)}
    </div>
    <div class="row">
      ${isPassing(failure.error) && html`<button type="button" disabled=${wait > 0} onClick=${retry}>Try again</button>`}
      ${wait > 0 && html`<span class="quiet" role="timer">possible in ${seconds(wait, 0)}</span>`}
      ${dismiss && html`<button type="button" onClick=${dismiss}>Dismiss</button>`}
      ${left.more && !left.isTerminal && html`<${Explained} href=${left.more} />`}
    </div>
  </div>`;
}

/** performance.now(), told every second until the moment has come. */
function useClock(until) {
  const [now, setNow] = useState(performance.now());
  useEffect(() => {
    const tick = () => {
      setNow(performance.now());
      if (performance.now() >= until) clearInterval(timer);
    };
    const timer = setInterval(tick, 1_000);
    tick();
    return () => clearInterval(timer);
  }, [until]);
  return Math.max(now, 0);
}
