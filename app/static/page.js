// The page: puts the parts together. What a caller or a model can influence goes in as text, never as markup.

import { html, render, useEffect, useLayoutEffect, useState } from "./preact-htm.js";
import { call, home, key } from "./api.js";
import { Address } from "./address.js";
import { Darkroom } from "./darkroom.js";
import { Detail } from "./detail.js";
import { Failure } from "./failure.js";
import { RequestForm } from "./form.js";
import { sent } from "./inputs.js";
import { KeyForm, Trouble, useChanges } from "./parts.js";
import { Wall } from "./prints.js";
import { useSender } from "./sending.js";
import { Watch } from "./watch.js";
import { defaults, fitted, requestOf } from "./request.js";
import { count, isTerminal, shows } from "./words.js";

const darkroom = new Darkroom();
const watch = new Watch(darkroom);
const address = new Address();

function Page() {
  useChanges(darkroom);
  useChanges(address);
  const [given, setGiven] = useState(null);
  const forming = useSender(submit);
  const repeating = useSender(submit);
  const [lost, setLost] = useLinked();
  useEffect(() => void (document.title = title()));

  const again = (input, metadata) => {
    const model = darkroom.models?.find((each) => each.id === input.model) ?? darkroom.model;
    address.close();
    repeating.send({ ...requestOf({ ...defaults(model), ...input }, model) }, metadata);
  };
  const use = (input) => {
    address.close();
    if (typeof input === "function") return setGiven(() => input);
    const model = darkroom.models?.find((each) => each.id === input.model);
    return setGiven(model ? fitted(requestOf(input, model), model) : requestOf(input, darkroom.model));
  };
  const open = (id, index) => {
    setLost(false);
    address.open({ id, index });
  };
  const onKey = async (value) => {
    darkroom.enter(value);
    await darkroom.refresh();
    watch.now();
  };
  const operates = useOperator();
  return html`<header class="head"><h1>Darkroom</h1><${Service} />${operates && html`<p><a href=${`${home}/admin`}>Operate</a></p>`}</header>
    <div class="bench">
      <section class="controls" aria-label="New picture">
        ${darkroom.needsKey && html`<${KeyForm} wrong=${darkroom.isKeyWrong} onKey=${onKey} />`}
        <${RequestForm} models=${darkroom.models} model=${darkroom.model} given=${given} sender=${forming} away=${darkroom.away}
          note=${(error) => darkroom.note(error)} />
      </section>
      <section class="prints" aria-label="Prints">
        ${repeating.failure && html`<${Failure} failure=${repeating.failure} away=${darkroom.away} retry=${repeating.retry} dismiss=${repeating.dismiss} />`}
        ${darkroom.trouble && html`<${Trouble} ...${darkroom.trouble} dismiss=${() => darkroom.dismiss()} />`}
        ${lost && html`<p class="trouble" role="status">The print of this link is not kept here any more, or it is another's.</p>`}
        <${Wall} darkroom=${darkroom} onOpen=${open} onAgain=${again} />
      </section>
    </div>
    <p class="unseen" role="status" aria-live="polite">${darkroom.news}</p>
    ${address.print && html`<${Detail} darkroom=${darkroom} named=${address.print} go=${(print) => address.walk(print)} close=${() => address.close()} again=${again} use=${use} />`}`;
}

async function submit(request, named) {
  try {
    request = await sent(request);
  } catch (error) {
    darkroom.note(error);
    throw error;
  }
  await darkroom.submit(request, named);
  watch.now();
}

/** Fetches the job that the address names, when the page has not got it. Answers whether it is lost, and a setter. */
function useLinked() {
  const [lost, setLost] = useState(false);
  const id = address.print?.id;
  const isMissing = !!id && !darkroom.jobs.has(id);
  // At once: one that was deleted is not looked for on the screen.
  useLayoutEffect(() => {
    if (!isMissing || !darkroom.loaded || darkroom.away || darkroom.needsKey) return;
    if (darkroom.isGone(id)) address.close();
    else darkroom.reload(id).then((job) => setLost(!job), (error) => darkroom.note(error));
  }, [id, isMissing, darkroom.loaded, darkroom.away, darkroom.needsKey, darkroom.isGone(id)]);
  return [lost, setLost];
}

/** Whether the tab's key is an operator's. Without one nobody is. */
function useOperator() {
  const [operates, setOperates] = useState(false);
  const given = key.get();
  useEffect(() => {
    setOperates(false);
    if (!given || !darkroom.loaded) return;
    call("/v1/key").then((known) => key.get() === given && setOperates(known.scopes.includes("admin")), (error) => darkroom.note(error));
  }, [given, darkroom.loaded]);
  return operates;
}

/** One line on the service itself, and an alert while it is away. */
function Service() {
  if (darkroom.away) return html`<p class="away" role="alert">The service does not answer. Trying again; nothing it accepted is lost.</p>`;
  if (darkroom.needsKey || !darkroom.models) return html`<p class="quiet"></p>`;
  if (!darkroom.model) return html`<p class="quiet">Waiting for a model</p>`;
  const awake = darkroom.models.filter((model) => model.state === "ready");
  if (!awake.length) return html`<p class="away" role="status">No worker is awake. Pictures wait until one is.</p>`;
  const busy = darkroom.unfinished.length;
  return html`<p class="quiet">${busy ? `${count(busy, "job")} under way · ` : ""}${awake.map((model) => model.id).join(", ")}</p>`;
}

function title() {
  const open = darkroom.jobs.get(address.print?.id);
  if (open && isTerminal(open)) return `${shows(open.input)} - Darkroom`;
  const running = darkroom.unfinished.filter((job) => job.status === "running");
  if (!running.length) return "Darkroom";
  const { step, steps } = running[running.length - 1].progress;
  return `${Math.floor((100 * step) / Math.max(1, steps))} % - Darkroom`;
}

render(html`<${Page} />`, document.getElementById("page"));
watch.start();
