// The state behind the operator's page: queues, workers, models, dead jobs, use, audit, and what an operator changes.
// Knows the operator's calls, and when to ask again; refuses to know the DOM.

import { Outdated, Refused, Unreachable, call } from "./api.js";
import { count, explain } from "./words.js";

const LISTS = {
  queue: "/v1/admin/queue?limit=500",
  models: "/v1/admin/models",
  workers: "/v1/admin/workers?limit=500",
  dead: "/v1/admin/dead?limit=50",
  audit: "/v1/admin/audit?limit=50",
};

const OFTEN = ["queue", "models", "workers"];
const BUSY_MS = 3_000;
const HIDDEN_MS = 60_000;
const SELDOM = 5;
/** Dead jobs and the audit are asked for every so many times, what was used SELDOM times as seldom. */

const NEWS_MS = 10_000;
/** What was done is said for so long. */

const MOST_PAGES = 20;
/** Of what was used, a thousand rows each. */

const MOST_ROUNDS = 100;
/** Of a cancel, 500 jobs each. */

export class Operator {
  lists = {};
  used = null;
  period = {};
  away = false;
  needsKey = false;
  isRefused = false;
  trouble = null;
  news = "";
  #listeners = new Set();
  #rounds = 0;
  #looks = 0;
  #timer = null;

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed() {
    for (const listener of this.#listeners) listener();
  }

  /** Look now, and again and again from then on. */
  async start() {
    for (const name of ["online", "visibilitychange"]) addEventListener(name, () => document.hidden || this.now());
    await this.now();
  }

  async now() {
    this.#rounds = 0;
    await this.#look();
  }

  /** What was used from one day to another, both as YYYY-MM-DD; the service's own choice where one is missing. */
  async ask(period) {
    const before = this.period;
    this.period = period;
    this.trouble = null;
    const back = (error) => {
      if (this.period === period) this.period = before;
      throw error;
    };
    await this.#guarded(() => this.#askUse().catch(back));
  }

  pause(model, how) {
    return this.#change(`/models/${encodeURIComponent(model)}/pause`, how, () => `${model} is paused`);
  }

  resume(model) {
    return this.#change(`/models/${encodeURIComponent(model)}/resume`, {}, () => `${model} goes on`);
  }

  drain(worker) {
    return this.#change(`/workers/${encodeURIComponent(worker)}/drain`, {}, () => `${worker} takes no more jobs`);
  }

  undrain(worker) {
    return this.#change(`/workers/${encodeURIComponent(worker)}/undrain`, {}, () => `${worker} takes jobs again`);
  }

  retry(id) {
    return this.#change(`/jobs/${id}/retry`, {}, ({ id: again }) => `${id} runs again as ${again}`);
  }

  /** All jobs of a caller that are not over, however many there are. */
  async cancel(tenant) {
    let canceled = 0;
    const requested = new Set();
    await this.#changing(async () => {
      for (let round = 0, more = true; more && round < MOST_ROUNDS; round++) {
        const done = await post(`/tenants/${encodeURIComponent(tenant)}/cancel`);
        canceled += done.canceled.length;
        const before = requested.size;
        done.requested.forEach((id) => requested.add(id));
        // Running jobs are among the answers until their workers have let go of them.
        more = done.has_more && (done.canceled.length > 0 || requested.size > before);
      }
      return `Of ${tenant}, ${count(canceled, "waiting job")} called off, ${count(requested.size, "running job")} told to stop`;
    });
  }

  async retryAll() {
    await this.#changing(async () => {
      let ran = 0;
      let stayed = 0;
      let cursor = null;
      do {
        const page = await post("/dead/retry", cursor ? { cursor } : {});
        ran += page.data.filter((each) => each.id).length;
        stayed += page.data.filter((each) => !each.id).length;
        cursor = page.next_cursor;
      } while (cursor);
      return `${count(ran, "job")} run again${stayed ? `, ${stayed} cannot` : ""}`;
    });
  }

  dismiss() {
    this.trouble = null;
    this.changed();
  }

  async #look() {
    clearTimeout(this.#timer);
    const names = this.#rounds % SELDOM ? OFTEN : Object.keys(LISTS);
    const wantsUse = this.#rounds % (SELDOM * SELDOM) === 0;
    this.#rounds += 1;
    const look = ++this.#looks;
    await this.#guarded(async () => {
      const found = await Promise.all(names.map((name) => call(LISTS[name]))).finally(() => {
        // A later one knows what was changed in between, and whether the key still opens this.
        if (look !== this.#looks) throw new Outdated();
      });
      names.forEach((name, place) => (this.lists = { ...this.lists, [name]: found[place] }));
      if (wantsUse) await this.#askUse();
    });
    if (look !== this.#looks) return;
    clearTimeout(this.#timer);
    // Who has no key, or another's, is asked for one, and then it begins anew.
    if (!this.needsKey && !this.isRefused) this.#timer = setTimeout(() => this.#look(), document.hidden ? HIDDEN_MS : BUSY_MS);
  }

  async #askUse() {
    const { period } = this;
    const rows = [];
    let page = null;
    for (let pages = 0; pages < MOST_PAGES && (!page || page.next_cursor); pages++) {
      page = await call(`/v1/admin/usage?${query({ ...period, limit: 1_000, cursor: page?.next_cursor })}`);
      rows.push(...page.data);
    }
    // Other days may have been asked for meanwhile.
    if (period !== this.period) return;
    this.used = { ...page, data: rows, isWhole: !page.next_cursor };
  }

  #change(path, body, says) {
    return this.#changing(async () => says(await post(path, body)));
  }

  /** `work` answers a sentence. Never throws: what is wrong is shown. */
  async #changing(work) {
    this.trouble = null;
    try {
      this.#say(await work());
    } catch (error) {
      this.#note(error);
      this.trouble = explain(error);
    }
    await this.now();
  }

  #say(news) {
    this.news = news;
    this.changed();
    setTimeout(() => {
      if (this.news !== news) return;
      this.news = "";
      this.changed();
    }, NEWS_MS);
  }

  async #guarded(work) {
    try {
      await work();
      this.away = this.needsKey = this.isRefused = false;
    } catch (error) {
      this.#note(error);
    }
    this.changed();
  }

  #note(error) {
    if (error instanceof Outdated) return;
    this.away = error instanceof Unreachable || (error instanceof Refused && error.status === 503);
    if (error.status === 401) this.needsKey = true;
    if (error.status === 403) this.isRefused = true;
    if (this.needsKey || this.isRefused) this.lists = {};
    if (!this.away && ![401, 403].includes(error.status)) this.trouble = explain(error);
    this.changed();
  }
}

function post(path, body = {}) {
  return call(`/v1/admin${path}`, { method: "POST", body });
}

/** What is given of these, as a query. */
export function query(given) {
  return new URLSearchParams(Object.entries(given).filter(([, value]) => value != null && value !== ""));
}
