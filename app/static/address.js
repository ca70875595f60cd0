// Which print the address names: `?job=…&picture=…`, below wherever the page is. Back closes what was opened here.
// Knows the browser's history; refuses to know what a job is.

const JOB = /^job_[0-9a-z]{24}$/;

export class Address {
  #print = named();
  #listeners = new Set();

  constructor() {
    addEventListener("popstate", () => this.#become(named()));
  }

  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The open print as {id, index}, or null. */
  get print() {
    return this.#print;
  }

  /** A new entry of the history, so that Back comes here again. */
  open(print) {
    history.pushState({ opened: true }, "", query(print));
    this.#become(print);
  }

  /** Another print in place of the open one: Back closes it, however many were walked through. */
  walk(print) {
    history.replaceState(history.state, "", query(print));
    this.#become(print);
  }

  /** May be called twice: a dialog tells of its end however it came about. */
  close() {
    if (!this.#print) return;
    // Who came by a link has no entry of ours before this one, and Back would lead away.
    if (history.state?.opened) history.back();
    else history.replaceState(null, "", location.pathname);
    this.#become(null);
  }

  #become(print) {
    this.#print = print;
    for (const listener of this.#listeners) listener();
  }
}

function query({ id, index }) {
  return `?${new URLSearchParams({ job: id, picture: index })}`;
}

function named() {
  const given = new URLSearchParams(location.search);
  const id = given.get("job") ?? "";
  const index = Number(given.get("picture") ?? 0);
  return JOB.test(id) ? { id, index: Number.isInteger(index) && index >= 0 ? index : 0 } : null;
}
