// What stands in the form, kept for this tab: it is there again after a reload, a refusal, or a page in between.
// Refuses to know what the fields mean.

import { read, write } from "./kept.js";
import { ofKind } from "./request.js";

const DRAFT_NAME = "darkroom-draft";

/** The kept fields over `fields`, which says their names and kinds; `fields` itself if nothing usable is kept. */
export function restored(fields) {
  try {
    return { ...fields, ...ofKind(JSON.parse(read(DRAFT_NAME)), fields) };
  } catch {
    return fields;
  }
}

export function keep(fields) {
  write(DRAFT_NAME, JSON.stringify(fields));
}
