// Keeps unfinished jobs current: one event stream for all of them, and one poll, for their places in the queue and for
// every outage.
//
// A browser opens six connections to a host over HTTP/1.1, for all of its tabs: a stream for each job would take them all.

import { key } from "./api.js";
import { events } from "./stream.js";
import { isTerminal } from "./words.js";

const MOST_JOBS = 100;
/** As many as the service takes in one stream. */

const BUSY_MS = 1_000;
const IDLE_MS = 10_000;
const AWAY_MS = 2_000;

export class Watch {
  #darkroom;
  #timer = null;
  #stream = null;
  #place = {};

  constructor(darkroom) {
    this.#darkroom = darkroom;
  }

  async start() {
    for (const name of ["online", "visibilitychange"]) addEventListener(name, () => this.now());
    await this.#look();
  }

  /** Look at once, because something was sent in or has ended. */
  now() {
    this.#follow();
    this.#sleep(document.hidden ? IDLE_MS : 0);
  }

  async #look() {
    const darkroom = this.#darkroom;
    const isDrawing = darkroom.isOpen && darkroom.unfinished.length > 0 && !darkroom.away && darkroom.models?.length > 0;
    if (isDrawing) await darkroom.refreshUnfinished();
    // What is served is asked for in between, and while something waits for a worker to come back.
    if (darkroom.isOpen && !(isDrawing && darkroom.models.every((model) => model.state === "ready"))) await darkroom.refresh();
    this.#follow();
    this.#sleep(this.#pause());
  }

  #pause() {
    const darkroom = this.#darkroom;
    if (document.hidden) return IDLE_MS;
    if (darkroom.away || !darkroom.model || darkroom.model.state !== "ready") return AWAY_MS;
    return darkroom.unfinished.length ? BUSY_MS : IDLE_MS;
  }

  #sleep(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), milliseconds);
  }

  /** Have every unfinished job in the stream; one that lacks some is replaced. */
  #follow() {
    if (!this.#darkroom.isOpen) return;
    const ids = followed(this.#darkroom.unfinished);
    const isOurs = !this.#stream || this.#stream.given === key.get();
    if (isOurs && ids.every((id) => this.#stream?.ids.has(id))) return;
    this.#stream?.controller.abort();
    this.#stream = null;
    if (ids.length) this.#listen(ids);
  }

  async #listen(ids) {
    const stream = { ids: new Set(ids), given: key.get(), controller: new AbortController() };
    this.#stream = stream;
    const path = `/v1/jobs/events?${ids.map((id) => `id=${id}`).join("&")}`;
    const after = this.#place.path === path ? this.#place.id : undefined;
    try {
      for await (const { id, name, data } of events(path, { after, signal: stream.controller.signal })) {
        if (this.#stream !== stream || stream.given !== key.get()) break;
        this.#place = { path, id };
        handle(this.#darkroom, name, data);
        if (data.object === "job" && isTerminal(data)) this.now();
      }
    } catch {
      // Ended by us; or the poll finds out what is wrong, and opens the stream again when the service is back.
    }
    // A line that is silent is there still.
    stream.controller.abort();
    if (this.#stream === stream) this.#stream = null;
  }
}

/** Ids of the jobs to follow: those that are drawn, then those whose turn is next. The list is newest first. */
function followed(unfinished) {
  const running = unfinished.filter((job) => job.status === "running");
  const waiting = unfinished.filter((job) => job.status !== "running").reverse();
  return [...running, ...waiting].slice(0, MOST_JOBS).map((job) => job.id);
}

function handle(darkroom, name, data) {
  if (data.object === "job") darkroom.take(data);
  else if (name === "job.started") darkroom.patch(data.id, { status: "running", queue: null, attempts: data.attempts });
  else if (name === "job.progress") darkroom.patch(data.id, { status: "running", queue: null, progress: progressOf(darkroom, data) });
  else if (name === "job.preview") darkroom.glimpse(data.id, data);
  else if (name === "job.restarted") darkroom.restart(data.id).catch(() => {});
}

function progressOf(darkroom, { id, step, steps, stage }) {
  return { ...darkroom.jobs.get(id)?.progress, step, steps, stage };
}
