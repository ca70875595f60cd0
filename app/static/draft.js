// What stands in the form, kept for this tab: it is there again after a reload, a refusal, or a page in between.
// Knows sessionStorage; refuses to know what the fields mean.

const DRAFT_NAME = "darkroom-draft";

/** The kept fields over `fields`, which says their names and kinds; `fields` itself if nothing usable is kept. */
export function restored(fields) {
  try {
    const kept = Object.entries(JSON.parse(sessionStorage.getItem(DRAFT_NAME)) ?? {});
    return { ...fields, ...Object.fromEntries(kept.filter(([name, value]) => typeof value === typeof fields[name])) };
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
