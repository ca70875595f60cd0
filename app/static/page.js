// The page: puts the parts together. What a caller or a model can influence goes in as text, never as markup.

import { html, render, useEffect, useState } from "./preact-htm.js";
import { key } from "./api.js";
import { Address } from "./address.js";
import { Darkroom } from "./darkroom.js";
import { Detail } from "./detail.js";
import { Failure } from "./failure.js";
import { RequestForm } from "./form.js";
import { KeyForm } from "./parts.js";
import { Wall } from "./prints.js";
import { useSender } from "./sending.js";
import { Watch } from "./watch.js";
import { defaults, requestOf } from "./request.js";
import { count, isOver } from "./words.js";

const room = new Darkroom();
const watch = new Watch(room);
const address = new Address();

function useChanges(of) {
  const [, again] = useState(0);
  useEffect(() => of.subscribe(() => again((times) => times + 1)), []);
}

function Page() {
  useChanges(room);
  useChanges(address);
  const [given, setGiven] = useState(null);
  const forming = useSender(submit);
  const repeating = useSender(submit);
  const [lost, setLost] = useLinked();
  useEffect(() => void (document.title = title()));

  const again = (input, metadata) => {
    const model = room.models?.find((each) => each.id === input.model) ?? room.model;
    address.close();
    repeating.send({ ...requestOf({ ...defaults(model), ...input }, model) }, metadata);
  };
  const use = (input) => {
    address.close();
    setGiven(requestOf(input, room.model));
  };
  const open = (id, index) => {
    setLost(false);
    address.open({ id, index });
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
        <${RequestForm} models=${room.models} model=${room.model} given=${given} sender=${forming} away=${room.away} />
      </section>
      <section class="prints" aria-label="Prints">
        ${repeating.failure && html`<${Failure} failure=${repeating.failure} away=${room.away} retry=${repeating.retry} dismiss=${repeating.dismiss} />`}
        ${lost && html`<p class="trouble" role="status">The print of this link is not kept here any more, or it is another's.</p>`}
        <${Wall} room=${room} onOpen=${open} onAgain=${again} />
      </section>
    </div>
    <p class="unseen" role="status" aria-live="polite">${room.news}</p>
    ${address.print && html`<${Detail} room=${room} named=${address.print} go=${(print) => address.walk(print)} close=${() => address.close()} again=${again} use=${use} />`}`;
}

async function submit(request, named) {
  await room.submit(request, named);
  watch.now();
}

/** Fetches the job that the address names, when the page has not got it. Answers whether it is lost, and a setter. */
function useLinked() {
  const [lost, setLost] = useState(false);
  const id = address.print?.id;
  const isMissing = !!id && !room.jobs.has(id);
  useEffect(() => {
    if (!isMissing || !room.loaded || room.away || room.needsKey) return;
    if (room.isGone(id)) address.close();
    else room.reload(id).then((job) => setLost(!job), (error) => room.note(error));
  }, [id, isMissing, room.loaded, room.away, room.needsKey, room.isGone(id)]);
  return [lost, setLost];
}

/** One line on the service itself, and an alert while it is away. */
function Service() {
  if (room.away) return html`<p class="away" role="alert">The service does not answer. Trying again; nothing it accepted is lost.</p>`;
  if (room.needsKey || !room.models) return html`<p class="quiet"></p>`;
  if (!room.model) return html`<p class="quiet">Waiting for a model</p>`;
  const awake = room.models.filter((model) => model.state === "ready");
  if (!awake.length) return html`<p class="away" role="status">No worker is awake. Pictures wait until one is.</p>`;
  const busy = room.unfinished.length;
  return html`<p class="quiet">${busy ? `${count(busy, "job")} under way · ` : ""}${awake.map((model) => model.id).join(", ")}</p>`;
}

function title() {
  const open = room.jobs.get(address.print?.id);
  if (open && isOver(open)) return `${open.input.prompt} - Darkroom`;
  const running = room.unfinished.filter((job) => job.status === "running");
  if (!running.length) return "Darkroom";
  const { step, steps } = running[running.length - 1].progress;
  return `${Math.floor((100 * step) / Math.max(1, steps))} % - Darkroom`;
}

render(html`<${Page} />`, document.getElementById("page"));
watch.start();
