// The state behind the page: models, jobs, what is wrong. Components read it and are told when it changes.
// Knows the API's calls; refuses to know the DOM. watch.js decides when unfinished jobs are asked for.

import { WAIT_MS, Outdated, Refused, Unreachable, call, key, uniqueName } from "./api.js";
import { ending, explain, isTerminal, shows } from "./words.js";
import { bodyOf } from "./request.js";

export const PAGE = 24;

const LONG_PAGE = 100;
const LONG_PAGES = 5;
/** What came in at once, as from a program, is caught up with so far; the rest are older prints. */

const ASKED_AT_ONCE = 8;
/** Jobs that are asked for one by one, beside the newest page. The others' turn is next time. */

const REMEMBERED = 50;
/** Jobs whose estimates stay in memory for the slider: some 100 kB each. */

const NOT_DRAWING = ["score", "embed"];
/** Tasks that give no picture. */

/** Of two states of a job the one with more is the later. */
const age = (job) => (isTerminal(job) ? Infinity : job.attempts);

const draws = ({ tasks }) => !tasks || tasks.some((task) => !NOT_DRAWING.includes(task));

export class Darkroom {
  models = null;
  jobs = new Map();
  estimates = new Map();
  cursor = null;
  loaded = false;
  away = false;
  needsKey = false;
  trouble = null;
  news = "";
  sent = "";
  #listeners = new Set();
  #gone = new Set();
  #settled = new Map();
  #asked = new Map();
  #refused = null;
  #told = null;
  #turn = 0;
  #reached = "";
  #order = null;

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed() {
    for (const listener of this.#listeners) listener();
  }

  /** Newest first. */
  get prints() {
    // Sorted when one comes or goes, and not with each step of one among thousands.
    this.#order ??= [...this.jobs.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1)).map(({ id }) => id);
    return this.#order.map((id) => this.jobs.get(id));
  }

  get unfinished() {
    return this.prints.filter((job) => !isTerminal(job));
  }

  /** The model of requests that name none; while nobody says which that is, one that is awake. */
  get model() {
    const models = this.models ?? [];
    return models.find((each) => each.default) ?? models.find((each) => each.state === "ready") ?? models[0] ?? null;
  }

  /** Another key may be another caller's: nothing that the one before has shown stays. */
  enter(value) {
    key.set(value);
    for (const kept of [this.jobs, this.estimates, this.#gone, this.#settled, this.#asked]) kept.clear();
    this.cursor = this.trouble = this.#order = this.#told = null;
    this.loaded = false;
    this.changed();
  }

  /** Whether the service does not know the key that the tab has now. */
  get isKeyWrong() {
    return this.needsKey && !!key.get() && this.#refused === key.get();
  }

  /** Whether to ask is of use: not with a key that was refused, while the service answers. */
  get isOpen() {
    return !this.needsKey || this.away || this.#refused !== key.get();
  }

  /** Look at models and at the newest jobs. Never throws: what is wrong becomes state. */
  async refresh() {
    const error = await this.#guarded(async () => {
      const [models] = await Promise.all([call("/v1/models"), this.#newest()]);
      this.models = models.data.filter((each) => !each.alias_of && draws(each));
      if (!this.loaded) this.trouble = null;
      this.loaded = true;
    });
    // Once: whoever has dismissed it knows.
    if (!this.loaded && !this.away && error?.status !== this.#told) this.#tell(error);
    this.#told = this.loaded ? null : error?.status;
  }

  /** Ask for unfinished jobs, the newest page of all and some of the others. */
  async refreshUnfinished() {
    await this.#guarded(() => this.#newest());
  }

  /** Older jobs, if there are any. */
  async more() {
    await this.#act(async () => {
      this.#goOnBehind(await this.#page(PAGE, this.cursor));
    });
  }

  /** The newest jobs, and all that came between two looks; some of those that should be among them, or are still to end. */
  async #newest() {
    const page = await this.#page(PAGE);
    let last = page;
    // Older ones than were reached before have not come: they moved up, because a newer one was deleted.
    const cameSince = ({ isNew, data }) => isNew && data.at(-1).created_at > this.#reached;
    for (let pages = 0; this.loaded && cameSince(last) && last.next_cursor && pages < LONG_PAGES; pages++) {
      last = await this.#page(LONG_PAGE, last.next_cursor);
    }
    if (!this.loaded || last.isNew) this.#goOnBehind(last);
    await this.#askFor(page);
  }

  /** A job that is not where it was may be deleted, but it may as well have come while the list was on its way. */
  async #askFor({ data, next_cursor: more }) {
    const listed = new Set(data.map((job) => job.id));
    const oldest = more ? data.at(-1).created_at : "";
    const isMissing = (job) => !listed.has(job.id) && (isTerminal(job) ? job.task === "draw" && job.created_at > oldest : true);
    const turn = ({ id }) => this.#asked.get(id) ?? 0;
    const missing = this.prints.filter(isMissing).sort((a, b) => turn(a) - turn(b)).slice(0, ASKED_AT_ONCE);
    this.#turn += 1;
    missing.forEach(({ id }) => this.#asked.set(id, this.#turn));
    await Promise.all(missing.map(({ id }) => this.reload(id)));
  }

  /** `isNew`: the last of them was not here before, so those that follow may not be either. */
  async #page(limit, cursor) {
    const page = await call(`/v1/jobs?task=draw&limit=${limit}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    const isNew = page.data.length > 0 && !this.jobs.has(page.data.at(-1).id);
    page.data.forEach((job) => this.take(job));
    return { ...page, isNew };
  }

  #goOnBehind({ data, next_cursor: cursor }) {
    this.cursor = cursor;
    this.#reached = cursor ? data.at(-1).created_at : "";
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
    // For as long as an answer may take: after that it is the service that has gone back, to a copy of its store.
    if (known && age(job) < age(known) && performance.now() < this.#settled.get(job.id)) return known;
    if (!known || age(job) > age(known)) this.#settled.set(job.id, performance.now() + WAIT_MS);
    if (known?.status === "running" && job.status === "running" && known.attempts === job.attempts) {
      if (known.progress.step > job.progress.step) job = { ...job, progress: known.progress };
    }
    if (!known) this.#order = null;
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
    if (error instanceof Outdated) return;
    this.away = error instanceof Unreachable || (error instanceof Refused && error.status === 503);
    if (error.status === 401) {
      this.needsKey = true;
      this.#refused = key.get();
    }
    this.changed();
  }

  dismiss() {
    this.trouble = null;
    this.changed();
  }

  /** Answers what was wrong, null if nothing was. */
  async #guarded(work) {
    let wrong = null;
    try {
      await work();
      this.away = this.needsKey = false;
    } catch (error) {
      wrong = error;
      this.note(error);
    }
    this.changed();
    return wrong;
  }

  /** What a button has asked for: what is wrong with it is said. */
  async #act(work) {
    this.trouble = null;
    this.#tell(await this.#guarded(work));
  }

  /** Says an error that nothing else on the page says. */
  #tell(error) {
    if (!error || error.status === 401 || error instanceof Outdated) return;
    this.trouble = explain(error);
    this.changed();
  }

  /** A job may end or go while a button is pressed: then the newest state says so, and that is no error. */
  async #ended(id, work) {
    await this.#act(async () => {
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
    this.#order = null;
    this.estimates.delete(id);
    this.changed();
  }

  #say(text) {
    this.news = text;
    this.changed();
  }
}
