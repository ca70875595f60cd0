// The state behind the page: models, jobs, what is wrong. Components read it and are told when it changes.
// Knows the API's calls; refuses to know the DOM. watch.js decides when unfinished jobs are asked for.

import { WAIT_MS, Refused, Unreachable, call, uniqueName } from "./api.js";
import { ending, isTerminal, shows } from "./words.js";
import { bodyOf } from "./request.js";

const PAGE = 24;

const REMEMBERED = 50;
/** Jobs whose estimates stay in memory for the slider: some 100 kB each. */

const NOT_DRAWING = ["score", "embed"];
/** Tasks that give no picture. */

const draws = ({ tasks }) => !tasks || tasks.some((task) => !NOT_DRAWING.includes(task));

export class Darkroom {
  models = null;
  jobs = new Map();
  estimates = new Map();
  cursor = null;
  loaded = false;
  away = false;
  needsKey = false;
  news = "";
  sent = "";
  #listeners = new Set();
  #gone = new Set();
  #settled = new Map();

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed() {
    for (const listener of this.#listeners) listener();
  }

  /** Newest first. */
  get prints() {
    return [...this.jobs.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
  }

  get unfinished() {
    return this.prints.filter((job) => !isTerminal(job));
  }

  /** The model of requests that name none; while nobody says which that is, one that is awake. */
  get model() {
    const models = this.models ?? [];
    return models.find((each) => each.default) ?? models.find((each) => each.state === "ready") ?? models[0] ?? null;
  }

  /** Look at models and at the newest jobs. Never throws: what is wrong becomes state. */
  async refresh() {
    await this.#guarded(async () => {
      const [models, page] = await Promise.all([call("/v1/models"), this.#page()]);
      this.models = models.data.filter((each) => !each.alias_of && draws(each));
      if (!this.loaded) this.cursor = page.next_cursor;
      this.loaded = true;
    });
  }

  /** Ask for every unfinished job at once; those beyond the newest page one by one. */
  async refreshUnfinished() {
    await this.#guarded(async () => {
      const listed = new Set((await this.#page()).data.map((job) => job.id));
      const others = this.unfinished.filter((job) => !listed.has(job.id));
      await Promise.all(others.map((job) => this.reload(job.id)));
    });
  }

  /** Older jobs, if there are any. */
  async more() {
    await this.#guarded(async () => {
      this.cursor = (await this.#page(`&cursor=${encodeURIComponent(this.cursor)}`)).next_cursor;
    });
  }

  async #page(more = "") {
    const page = await call(`/v1/jobs?task=draw&limit=${PAGE}${more}`);
    page.data.forEach((job) => this.take(job));
    return page;
  }

  /** Send a request in. Throws Refused or Unreachable; `name` makes a second try of the same request safe. */
  async submit(request, { name = uniqueName(), metadata } = {}) {
    const model = this.models?.find((each) => each.id === request.model);
    const body = { ...bodyOf(request, model), ...(metadata ? { metadata } : {}) };
    try {
      const job = await call("/v1/jobs", { method: "POST", body, headers: { "Idempotency-Key": name } });
      this.away = false;
      this.sent = job.id;
      this.take(job);
      this.#say(`Sent: ${shows(job.input)}`);
      return job;
    } catch (error) {
      this.note(error);
      throw error;
    }
  }

  async cancel(id) {
    await this.#ended(id, async () => this.take(await call(`/v1/jobs/${id}/cancel`, { method: "POST" })));
  }

  async remove(id) {
    await this.#ended(id, async () => {
      await call(`/v1/jobs/${id}`, { method: "DELETE" });
      this.#forget(id);
    });
  }

  /** Whether a job that was here, or was asked for, is known to be kept no longer. */
  isGone(id) {
    return this.#gone.has(id);
  }

  /** The job as the service has it, null when it is gone there. Throws like `call`. */
  async reload(id) {
    try {
      return this.take(await call(`/v1/jobs/${id}`));
    } catch (error) {
      if (error.status !== 404) throw error;
      this.#forget(id);
      return null;
    }
  }

  /** A job as the service told it. A poll that was under way while the stream went on must not set it back. */
  take(job) {
    const known = this.jobs.get(job.id);
    if (this.#gone.has(job.id)) return job;
    if (known && isTerminal(known) && !isTerminal(job) && performance.now() < this.#settled.get(job.id)) return known;
    if (isTerminal(job) && !(known && isTerminal(known))) this.#settled.set(job.id, performance.now() + WAIT_MS);
    if (known?.status === "running" && job.status === "running" && known.attempts === job.attempts) {
      if (known.progress.step > job.progress.step) job = { ...job, progress: known.progress };
    }
    this.jobs.set(job.id, job);
    if (known && isTerminal(job) && !isTerminal(known)) this.#say(ending(job));
    this.changed();
    return job;
  }

  /** What a stream told between two whole states of a job. */
  patch(id, change) {
    const job = this.jobs.get(id);
    if (job && !isTerminal(job)) this.take({ ...job, ...change });
  }

  /** Keep an estimate of picture `index` of a job. */
  glimpse(id, { index, step, jpeg }) {
    const seen = this.estimatesOf(id, index).filter((each) => each.step < step);
    const frames = [...seen, { step, source: `data:image/jpeg;base64,${jpeg}` }];
    this.estimates.set(id, { ...this.estimates.get(id), [index]: frames });
    for (const old of [...this.estimates.keys()].slice(0, -REMEMBERED)) this.estimates.delete(old);
    this.changed();
  }

  /** Estimates {step, source} of a picture as this tab saw them, in order. */
  estimatesOf(id, index) {
    return this.estimates.get(id)?.[index] ?? [];
  }

  /** The job begins anew, and so does the picture. */
  restart(id) {
    this.estimates.delete(id);
    return this.reload(id);
  }

  /** Keep what an error says about the service as a whole. */
  note(error) {
    this.away = error instanceof Unreachable || (error instanceof Refused && error.status === 503);
    if (error.status === 401) this.needsKey = true;
    this.changed();
  }

  async #guarded(work) {
    try {
      await work();
      this.away = this.needsKey = false;
    } catch (error) {
      this.note(error);
    }
    this.changed();
  }

  /** A job may end or go while a button is pressed: then the newest state says so, and that is no error. */
  async #ended(id, work) {
    await this.#guarded(async () => {
      try {
        await work();
      } catch (error) {
        if (error.status !== 409 && error.status !== 404) throw error;
        await this.reload(id);
      }
    });
  }

  #forget(id) {
    this.#gone.add(id);
    this.jobs.delete(id);
    this.estimates.delete(id);
    this.changed();
  }

  #say(text) {
    this.news = text;
    this.changed();
  }
}
