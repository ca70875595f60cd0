// What was set for each model, kept for this tab: whoever looks at another model and comes back finds it again.
// Knows which fields are a model's own; refuses to know the DOM.

import { read, write } from "./kept.js";
import { FIELDS, STAYING, defaults, fitted, moved, ofKind } from "./request.js";
import { takes } from "./pictured.js";

const CHOICES_NAME = "darkroom-choices";

const EVERYWHERE = ["model", "prompt", "negative_prompt", "seed", "output_format"];
/** The same whichever model is chosen. */

/** The request with another model than `left`: with what was set for that one when it was left, else with its defaults. */
export function switched(request, left, model) {
  const kept = { ...choices(), ...(left ? { [left.id]: request } : {}) };
  write(CHOICES_NAME, JSON.stringify(kept));
  const next = moved(request, model);
  const before = ofKind(kept[model.id], defaults(model));
  const comesBack = ({ name }) => name in before && !EVERYWHERE.includes(name) && !staysAs(name, request, left);
  const own = Object.fromEntries(FIELDS.filter(comesBack).map(({ name }) => [name, before[name]]));
  return fitted({ ...next, ...own }, model);
}

/** What goes along to another model was the choice there as well, unless that one could not take it. A picture's size goes
 * with the picture. */
function staysAs(name, request, left) {
  if (["width", "height"].includes(name)) return !!request.image;
  return STAYING.includes(name) && (!left || takes(left, name));
}

function choices() {
  try {
    return JSON.parse(read(CHOICES_NAME)) ?? {};
  } catch {
    return {};
  }
}
