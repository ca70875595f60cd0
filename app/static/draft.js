// What stands in the form, kept for this tab: it is there again after a reload, a refusal, or a page in between.
// Knows sessionStorage; refuses to know what the fields mean.

import { ofKind } from "./request.js";

const DRAFT_NAME = "darkroom-draft";

/** The kept fields over `fields`, which says their names and kinds; `fields` itself if nothing usable is kept. */
export function restored(fields) {
  try {
    return { ...fields, ...ofKind(JSON.parse(sessionStorage.getItem(DRAFT_NAME)), fields) };
  } catch {
    return fields;
  }
}

export function keep(fields) {
  try {
    sessionStorage.setItem(DRAFT_NAME, JSON.stringify(fields));
  } catch {
    // Storage is full or shut: the form works without.
  }
}
