// The page: puts the parts together. What a caller or a model can influence goes in as text, never as markup.

import { html, render, useEffect, useRef, useState } from "./preact-htm.js";
import { key, uniqueName } from "./api.js";
import { Darkroom } from "./darkroom.js";
import { Detail } from "./detail.js";
import { WishForm } from "./form.js";
import { KeyForm } from "./parts.js";
import { Wall } from "./prints.js";
import { Watch } from "./watch.js";
import { defaults, wishOf } from "./wish.js";
import { count } from "./words.js";

const room = new Darkroom();
const watch = new Watch(room);

function useRoom() {
  const [, again] = useState(0);
  useEffect(() => room.subscribe(() => again((times) => times + 1)), []);
}

function Page() {
  useRoom();
  const [place, setPlace] = useState(null);
  const [given, setGiven] = useState(null);
  const [trouble, setTrouble] = useState(null);
  const send = useSend();
  useEffect(() => void (document.title = title()));

  const again = (input, metadata) => {
    const model = room.models?.find((each) => each.id === input.model) ?? room.model;
    setPlace(null);
    setTrouble(null);
    send({ ...wishOf({ ...defaults(model), ...input }, model) }, metadata).catch(setTrouble);
  };
  const use = (input) => {
    setPlace(null);
    setGiven(wishOf(input, room.model));
    document.getElementById("prompt").focus();
  };
  const onKey = async (value) => {
    key.set(value);
    await room.refresh();
    watch.now();
  };
  return html`<header class="head"><h1>Darkroom</h1><${Service} /></header>
    <div class="bench">
      <section class="controls" aria-label="New picture">
        ${room.needsKey && html`<${KeyForm} wrong=${!!key.get()} onKey=${onKey} />`}
        <${WishForm} models=${room.models} model=${room.model} given=${given} send=${send} />
      </section>
      <section class="prints" aria-label="Prints">
        ${trouble && html`<div class="trouble" role="alert"><strong>That could not be sent</strong><p>${trouble.message}</p></div>`}
        <${Wall} room=${room} onOpen=${(id, index) => setPlace({ id, index })} onAgain=${again} />
      </section>
    </div>
    <p class="unseen" role="status" aria-live="polite">${room.news}</p>
    ${place && html`<${Detail} room=${room} place=${place} go=${setPlace} close=${() => setPlace(null)} again=${again} use=${use} />`}`;
}

/** Sends a wish. The same wish sent again after an outage carries the same name, so it is drawn once. */
function useSend() {
  const last = useRef({});
  return async (wish, metadata) => {
    const content = JSON.stringify([wish, metadata]);
    const name = last.current.content === content ? last.current.name : uniqueName();
    last.current = { content, name };
    const job = await room.submit(wish, { name, metadata });
    last.current = {};
    watch.now();
    return job;
  };
}

/** One line on the service itself, and an alert while it is away. */
function Service() {
  if (room.away) return html`<p class="away" role="alert">The service does not answer. Trying again; nothing it accepted is lost.</p>`;
  if (room.needsKey || !room.models) return html`<p class="quiet"></p>`;
  if (!room.model) return html`<p class="quiet">Waiting for a model</p>`;
  const awake = room.models.filter((model) => model.state === "ready");
  if (!awake.length) return html`<p class="away" role="status">No worker is awake. Pictures wait until one is.</p>`;
  const busy = room.unfinished.length;
  return html`<p class="quiet">${awake.map((model) => model.id).join(", ")}${busy ? ` · ${count(busy, "job")} under way` : ""}</p>`;
}

function title() {
  const running = room.unfinished.filter((job) => job.status === "running");
  if (!running.length) return "Darkroom";
  const { step, steps } = running[running.length - 1].progress;
  return `${Math.floor((100 * step) / Math.max(1, steps))} % - Darkroom`;
}

render(html`<${Page} />`, document.getElementById("page"));
watch.start();
