// Keeps unfinished jobs current: one poll for all of them, and an event stream for the few that are drawn now.
//
// A browser opens six connections to a host over HTTP/1.1. A stream per job would take them all and leave none for the
// page itself, so only STREAMS jobs are streamed; the poll carries the others, and every outage.

import { events } from "./stream.js";
import { isOver } from "./words.js";

const STREAMS = 3;
const BUSY_MS = 1_000;
const IDLE_MS = 10_000;
const AWAY_MS = 2_000;

export class Watch {
  #room;
  #streams = new Set();
  #timer = null;

  constructor(room) {
    this.#room = room;
  }

  async start() {
    for (const name of ["online", "visibilitychange"]) addEventListener(name, () => this.now());
    await this.#look();
  }

  /** Look at once, because something was sent in. */
  now() {
    this.#stream();
    this.#sleep(document.hidden ? IDLE_MS : 0);
  }

  async #look() {
    const room = this.#room;
    if (room.unfinished.length && !room.away && room.models?.length) await room.refreshUnfinished();
    else if (!room.needsKey) await room.refresh();
    this.#stream();
    this.#sleep(this.#pause());
  }

  #pause() {
    const room = this.#room;
    if (document.hidden) return IDLE_MS;
    if (room.away || !room.model || room.model.state !== "ready") return AWAY_MS;
    return room.unfinished.length ? BUSY_MS : IDLE_MS;
  }

  #sleep(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), milliseconds);
  }

  #stream() {
    // Oldest first: those are drawn first.
    const wanted = this.#room.unfinished.reverse().slice(0, STREAMS);
    for (const job of wanted) if (!this.#streams.has(job.id)) this.#follow(job.id);
  }

  async #follow(id) {
    this.#streams.add(id);
    try {
      // A stream opens with the present state, so nothing has to be remembered of an earlier one.
      for await (const event of events(`/v1/jobs/${id}/events`)) {
        hear(this.#room, id, event);
        if (!this.#room.jobs.has(id)) break;
      }
    } catch {
      // The poll finds out what is wrong, and opens the stream again when the service is back.
    } finally {
      this.#streams.delete(id);
    }
    const job = this.#room.jobs.get(id);
    if (job && isOver(job)) this.now();
  }
}

function hear(room, id, { name, data }) {
  if (name === "job" || data.object === "job") room.take(data);
  else if (name === "job.started") room.patch(id, { status: "running", queue: null, attempts: data.attempts });
  else if (name === "job.progress") room.patch(id, { status: "running", queue: null, progress: progressOf(room, id, data) });
  else if (name === "job.preview") room.glimpse(id, data);
  else if (name === "job.restarted") room.restart(id).catch(() => {});
}

function progressOf(room, id, { step, steps }) {
  return { ...room.jobs.get(id)?.progress, step, steps };
}
