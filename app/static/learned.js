// What the chosen model has learned: said of a prompt while it is typed, and offered to be picked.

import { html, useEffect, useMemo, useState } from "./preact-htm.js";
import { replaced, Vocabulary, wordsOf } from "./vocabulary.js";

const PAUSE_MS = 700;
/** A word is judged when somebody has stopped typing: half of one is no mistake. */
const NAMED = 3;
const LETTERS = 24;

/** The unknown words of `text`, those that stood there when the typing paused. */
export function useStrangers(text, model) {
  const listed = model?.vocabulary;
  const vocabulary = useMemo(() => new Vocabulary(listed ?? []), [JSON.stringify(listed)]);
  const [paused, setPaused] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setPaused(text), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return useMemo(() => {
    const complete = new Set(wordsOf(paused));
    return vocabulary.unknown(text).filter(({ word }) => complete.has(word));
  }, [vocabulary, text, paused]);
}

/** One sentence about them; a word that was probably meant can be taken. `change` takes the text with it in place. */
export function Strangers({ strangers, model, text, change }) {
  const named = strangers.slice(0, NAMED);
  const rest = strangers.length - named.length;
  return html`<p role="status" class="strangers">${model.id} has not learned: ${named.map(
    ({ word, near }, index) => html`${index > 0 && ", "}${short(word)}${near && html` (<${Near} text=${text} word=${word} near=${near} change=${change} />?)`}`,
  )}${rest > 0 && ` and ${rest} more`}</p>`;
}

function Near({ text, word, near, change }) {
  const mended = replaced(text, word, near);
  if (mended === text) return near;
  return html`<button type="button" class="fix" aria-label=${`Write ${near} instead of ${word}`} onClick=${() => change(mended)}>${near}</button>`;
}

function short(word) {
  const letters = [...word];
  return letters.length > LETTERS ? `${letters.slice(0, LETTERS).join("")}…` : word;
}

/** Examples and words to pick from. `take` gets a whole prompt, `add` a word for the one that stands there. */
export function Learned({ model, take, add }) {
  const { examples = [], vocabulary = [] } = model;
  const kinds = [examples.length && "examples", vocabulary.length && "words"].filter(Boolean).join(" and ");
  if (!kinds) return null;
  return html`<details class="learned">
    <summary>${kinds[0].toUpperCase() + kinds.slice(1)}</summary>
    ${examples.length > 0 && html`<${Picks} label=${`Prompts that ${model.id} draws well`} texts=${examples} pick=${take} />`}
    ${vocabulary.length > 0 && html`<${Picks} label=${`Words that ${model.id} has learned`} texts=${vocabulary} pick=${add} />`}
  </details>`;
}

function Picks({ label, texts, pick }) {
  return html`<ul class="picks" aria-label=${label}>
    ${texts.map((text) => html`<li><button type="button" onClick=${() => pick(text)}>${text}</button></li>`)}
  </ul>`;
}
