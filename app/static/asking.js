// Dialogs of the operator's page: what a button will do, in words, before it does it.

import { html, useEffect, useRef, useState } from "./preact-htm.js";

const DURATIONS = [["", "until somebody resumes it"], ["900", "for 15 minutes"], ["3600", "for an hour"], ["86400", "for a day"]];

/**
 * Opened as long as it is there. `title`, `lines`: what will happen. `does` is on the button; `act` is called with the
 * form's fields, then `close`. `children` are fields.
 */
export function Ask({ title, lines, does, isDanger, act, close, children }) {
  const dialog = useRef(null);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => dialog.current.showModal(), []);
  const onSubmit = async (event) => {
    event.preventDefault();
    setBusy(true);
    await act(Object.fromEntries(new FormData(event.target)));
    dialog.current?.close();
  };
  return html`<dialog ref=${dialog} class="ask" aria-labelledby="asked" aria-describedby="told" onClose=${close}>
    <form onSubmit=${onSubmit}>
      <h2 id="asked">${title}</h2>
      <div id="told">${lines.map((line) => html`<p>${line}</p>`)}</div>
      ${children}
      <div class="row end">
        <button type="button" autofocus onClick=${() => dialog.current.close()}>Leave it</button>
        <button type="submit" class=${isDanger ? "danger" : "primary"} disabled=${isBusy}>${does}</button>
      </div>
    </form>
  </dialog>`;
}

/** `act` is called with what POST …/pause takes. */
export function AskPause({ model, act, close }) {
  const lines = ["No worker claims its jobs from now on. Jobs that run go on to their end, and those that wait keep their places."];
  const send = ({ reason, seconds, refuses }) => act({ reason, seconds: seconds ? Number(seconds) : null, accepts: !refuses });
  return html`<${Ask} title=${`Pause ${model.id}`} lines=${lines} does="Pause it" act=${send} close=${close}>
    <div class="field"><label for="seconds">How long</label>
      <select id="seconds" name="seconds">${DURATIONS.map(([value, text]) => html`<option value=${value}>${text}</option>`)}</select></div>
    <div class="field"><label for="reason">Reason, which callers are shown</label>
      <input id="reason" name="reason" maxlength="200" autocomplete="off" /></div>
    <label class="tick"><input type="checkbox" name="refuses" />Refuse new jobs meanwhile, instead of letting them wait</label>
  </${Ask}>`;
}
