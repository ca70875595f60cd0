// The operator's page: puts its parts together. Whatever callers, workers and models say goes in as text, never as markup.

import { html, render, useState } from "./preact-htm.js";
import { home, key } from "./api.js";
import { Ask, AskPause } from "./asking.js";
import { Badge, Ledger, When } from "./ledger.js";
import { Operator } from "./operator.js";
import { KeyForm, Trouble, useChanges } from "./parts.js";
import { Used } from "./used.js";
import { count, seconds } from "./words.js";

const operator = new Operator();

/** `darkroom up` prints a link with the operator's token behind the #, which is sent to nobody. It stays in this tab. */
function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!given) return;
  history.replaceState(null, "", location.pathname);
  useKey(given);
}

function useKey(value) {
  key.set(value);
  operator.isRefused = operator.needsKey = false;
}

function Page() {
  useChanges(operator);
  const [asked, setAsked] = useState(null);
  const close = () => setAsked(null);
  const onKey = (value) => {
    useKey(value);
    return operator.now();
  };
  return html`<header class="head"><h1>Darkroom <span class="quiet">operator</span></h1><p><a href=${`${home}/`}>Draw</a></p></header>
    ${operator.away && html`<p class="away" role="alert">The service does not answer. Trying again.</p>`}
    ${operator.needsKey && html`<${KeyForm} wrong=${!!key.get()} onKey=${onKey} />`}
    ${operator.isRefused && html`<${Stranger} onKey=${onKey} />`}
    ${operator.trouble && html`<${Trouble} ...${operator.trouble} dismiss=${() => operator.dismiss()} />`}
    ${!operator.needsKey && !operator.isRefused && html`<${Sections} ask=${setAsked} />`}
    <p class="said" role="status" aria-live="polite">${operator.news}</p>
    ${asked && html`<${Asked} ...${asked} close=${close} />`}`;
}

/** Who has no key for this page, or comes to an open service from elsewhere. htm drops a space that a line ends with. */
function Stranger({ onKey }) {
  return html`<section class="trouble" role="alert">
    <strong>This page is the operator's</strong>
    <p>${key.get() ? "What this tab sent is neither this service's operator token nor a key of the scope admin: check that it is whole." : "This service lets you draw without a key, but it is run with one."}</p>
    <p>On its machine, <code>darkroom up</code> prints a link that opens it while there are no keys, and keeps its token${" "}
      in <code>operator.token</code> of its data folder. <code>darkroom keys create NAME --scope admin</code> makes a key;${" "}
      from the first one on everybody needs one.</p>
  </section>
  <${KeyForm} title="Open it with the token, or with such a key" label="Operator token, or key of the scope admin" onKey=${onKey} />`;
}

function Asked({ kind, about, close }) {
  if (kind === "pause") return html`<${AskPause} model=${about} act=${(how) => operator.pause(about.id, how)} close=${close} />`;
  return html`<${Ask} ...${QUESTIONS[kind](about)} close=${close} />`;
}

/** A line that says which models no other worker serves, or is about to; none where each has another. */
function servedByItAlone(name, models) {
  const others = operator.lists.workers?.data.filter((worker) => worker.name !== name && ["serving", "starting"].includes(worker.state)) ?? [];
  const alone = models.filter((model) => !others.some((worker) => worker.models.includes(model)));
  return alone.length ? [`No other worker serves ${alone.join(", ")}: its jobs wait until one is started.`] : [];
}

/** What each button does, said before it does it. */
const QUESTIONS = {
  cancel: ({ tenant, waiting, running }) => ({
    title: `Cancel the jobs of ${tenant}`,
    lines: [
      `${count(waiting, "waiting job")} of all models will be called off at once, ${count(running, "running job")} within a step.`,
      "What was drawn of them is lost. Whoever sent them sees them as canceled, and may send new ones.",
    ],
    does: "Cancel them",
    isDanger: true,
    act: () => operator.cancel(tenant),
  }),
  drain: ({ name, models, jobs }) => ({
    title: `Drain ${name}`,
    lines: [
      ...servedByItAlone(name, models),
      `It takes no more jobs${jobs ? `, finishes the ${count(jobs, "job")} that it holds` : ""}, and ends.`,
      "Until it has ended, Undrain takes this back. After that, start it again where it ran: one of darkroom up comes with the next darkroom up.",
    ],
    does: "Drain it",
    isDanger: true,
    act: () => operator.drain(name),
  }),
  retryAll: (jobs) => ({
    title: "Run all dead jobs again",
    lines: [`${jobs} or more that have lost a worker with every attempt. If one of them ends workers, it will do so again.`],
    does: "Run them again",
    act: () => operator.retryAll(),
  }),
};

function DrainOf({ worker, ask }) {
  if (worker.state === "draining") return html`<button type="button" class="small" onClick=${() => operator.undrain(worker.name)}>Undrain<span class="unseen"> ${worker.name}</span></button>`;
  return worker.state === "serving" && html`<button type="button" class="small" onClick=${() => ask({ kind: "drain", about: worker })}>Drain<span class="unseen"> ${worker.name}</span>…</button>`;
}

function Sections({ ask }) {
  const { queue, models, workers, dead, audit } = operator.lists;
  return html`<${Tiles} ...${operator.lists} />
    <section><h2>Queue by caller</h2>
      <${Ledger} about="Queue by caller" rows=${queue?.data} none="Nobody's jobs wait or run." keyOf=${({ model, tenant }) => `${model} ${tenant}`} columns=${[
        { name: "Caller", of: ({ tenant }) => tenant },
        { name: "Model", tight: true, of: ({ model }) => model },
        { name: "Waiting", number: true, of: ({ waiting }) => waiting },
        { name: "Running", number: true, of: ({ running }) => running },
        { name: "Cost waiting", number: true, of: ({ waiting_cost: cost }) => amount(cost) },
        { name: "Cost running", number: true, of: ({ running_cost: cost }) => amount(cost) },
        { name: "Oldest since", of: ({ oldest_waiting_at: at }) => html`<${When} at=${at} />` },
        { of: (row) => html`<button type="button" class="small danger" onClick=${() => ask({ kind: "cancel", about: ofCaller(queue.data, row.tenant) })}>Cancel<span class="unseen"> the jobs of ${row.tenant}</span>…</button>` },
      ]} />
      <p class="hint">Costs are megapixel steps.</p>
    </section>
    <section><h2>Models</h2>
      <${Ledger} about="Models" rows=${models?.data} none="No worker has announced a model yet." keyOf=${({ id }) => id} columns=${[
        { name: "Model", of: ({ id }) => id },
        { name: "State", of: (model) => html`<${StateOf} model=${model} />` },
        { name: "Waiting", number: true, of: ({ waiting }) => waiting },
        { name: "Running", number: true, of: ({ running }) => running },
        { name: "Longest wait", number: true, of: ({ oldest_waiting_seconds: wait }) => (wait ? seconds(wait) : "") },
        { name: "Workers", number: true, of: ({ workers: all }) => all },
        { name: "Seats", number: true, of: ({ seats }) => seats },
        { name: "A job takes", number: true, of: ({ pace_seconds: pace }) => seconds(pace) },
        { of: (model) => (model.paused
          ? html`<button type="button" class="small" onClick=${() => operator.resume(model.id)}>Resume<span class="unseen"> ${model.id}</span></button>`
          : html`<button type="button" class="small" onClick=${() => ask({ kind: "pause", about: model })}>Pause<span class="unseen"> ${model.id}</span>…</button>`) },
      ]} />
    </section>
    <section><h2>Workers</h2>
      <${Ledger} about="Workers" rows=${workers?.data} none="No worker was heard of in the last 35 seconds." keyOf=${({ name }) => name} columns=${[
        { name: "Worker", of: ({ name }) => name },
        { name: "State", of: ({ state, activity }) => html`<${Badge} kind=${state === "serving" ? "good" : "warn"}>${state}</${Badge}>${activity && html` <span class="quiet">${activity}</span>`}` },
        { name: "Models", tight: true, of: ({ models: all, in_memory: held }) => all.map((name) => (held.includes(name) ? name : `${name} (not in memory)`)).map((each) => html`<div>${each}</div>`) },
        { name: "Device", tight: true, of: ({ device }) => device },
        { name: "Seats free", number: true, of: ({ seats, free_seats: free }) => (seats == null ? "" : `${free} of ${seats}`) },
        { name: "Rows a second", number: true, of: ({ rows_per_second: rows }) => (rows == null ? "" : amount(rows)) },
        { name: "Last beat", of: ({ last_beat_at: at }) => html`<${When} at=${at} />` },
        { name: "Version", of: ({ version, state }) => version ?? (state === "starting" ? "" : "earlier") },
        { of: (worker) => html`<${DrainOf} worker=${worker} ask=${ask} />` },
      ]} />
    </section>
    <section><div class="row spread"><h2>Dead jobs</h2>
        ${dead?.data.length > 1 && html`<button type="button" class="small" onClick=${() => ask({ kind: "retryAll", about: dead.data.length })}>Run all again…</button>`}</div>
      <${Ledger} about="Dead jobs" rows=${dead?.data} none="No job has used up its attempts." keyOf=${({ id }) => id} columns=${[
        { name: "Job", of: ({ id }) => html`<code>${id}</code>` },
        { name: "Caller", of: ({ tenant }) => tenant },
        { name: "Model", tight: true, of: ({ model }) => model },
        { name: "Error", wide: true, of: ({ error }) => error?.detail },
        { name: "Died", of: ({ died_at: at }) => html`<${When} at=${at} />` },
        { of: ({ id }) => html`<button type="button" class="small" onClick=${() => operator.retry(id)}>Run again<span class="unseen"> ${id}</span></button>` },
      ]} />
    </section>
    <${Used} operator=${operator} />
    <section><h2>What operators have changed</h2>
      <${Ledger} about="What operators have changed" rows=${audit?.data} none="Nothing yet." keyOf=${({ id }) => id} columns=${[
        { name: "When", of: ({ at }) => html`<${When} at=${at} />` },
        { name: "What", of: ({ action, target }) => `${action} ${target}` },
        { name: "Outcome", of: ({ outcome }) => outcome },
        { name: "Who", of: ({ tenant, key_id: id, via }) => (via === "machine" ? "on the service's machine" : [tenant, id && `key ${id}`].filter(Boolean).join(", ")) },
      ]} />
      ${audit?.next_cursor && html`<p class="hint">The last ${audit.data.length}; <code>darkroom admin audit</code> has all.</p>`}
    </section>`;
}

function StateOf({ model: { state, paused } }) {
  if (!paused) return html`<${Badge} kind=${state === "ready" ? "good" : "warn"}>${state}</${Badge}>`;
  const { reason, accepts } = paused;
  return html`<${Badge} kind="warn">paused</${Badge}> <span class="quiet">${[accepts === false && "refuses jobs", reason].filter(Boolean).join(", ")}</span>`;
}

/** What there is to see at one look. */
function Tiles({ queue, models, workers, dead }) {
  if (!queue || !workers) return null;
  const total = (rows, name) => rows.reduce((sum, row) => sum + (row[name] ?? 0), 0);
  const seats = total(workers.data, "seats");
  const callers = new Set(queue.data.map(({ tenant }) => tenant)).size;
  const died = dead?.data.length ?? 0;
  const paused = models?.data.filter((model) => model.paused).length;
  const tiles = [
    [total(queue.data, "waiting"), "waiting"],
    [total(queue.data, "running"), "running"],
    [callers, callers === 1 ? "caller" : "callers"],
    [workers.data.length, workers.data.length === 1 ? "worker" : "workers"],
    [`${seats - total(workers.data, "free_seats")} of ${seats}`, "seats in use"],
    [`${died}${dead?.next_cursor ? "+" : ""}`, died === 1 ? "dead job" : "dead jobs", died > 0],
    ...(paused ? [[paused, paused > 1 ? "models paused" : "model paused", true]] : []),
  ];
  return html`<ul class="tiles" aria-label="At one look">${tiles.map(([value, name, isBad]) => html`<li class=${isBad ? "bad" : ""}><strong>${value}</strong> ${name}</li>`)}</ul>`;
}

/** A caller's jobs of all models, which is what a cancel ends. */
function ofCaller(rows, tenant) {
  const own = rows.filter((row) => row.tenant === tenant);
  const sum = (name) => own.reduce((whole, row) => whole + row[name], 0);
  return { tenant, waiting: sum("waiting"), running: sum("running") };
}

function amount(value) {
  return value < 10 ? Number(value.toPrecision(2)) : Math.round(value).toLocaleString();
}

takeKey();
// In a tab that shows the page already the link changes only what is behind the #.
addEventListener("hashchange", () => {
  takeKey();
  operator.now();
});
render(html`<${Page} />`, document.getElementById("page"));
operator.start();
