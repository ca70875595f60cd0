// What a tab keeps for itself until it is closed: sessionStorage, which ends with it. Where the browser shuts that, or it
// is full, until the page is left. Refuses to know what is kept.

const here = new Map();
/** What sessionStorage did not take. */

/** The text under a name, null if there is none. */
export function read(name) {
  if (here.has(name)) return here.get(name);
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Keeps a text under a name; null removes it. */
export function write(name, text) {
  here.delete(name);
  try {
    if (text === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, text);
  } catch {
    here.set(name, text);
  }
}
