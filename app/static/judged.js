// What pictures are scored by, and what came of it, in words. Pure functions; refuses to know who judges.

const LEAST_PERCENT = 0.001;

const REDRAWN = 2;
/** Times as many pictures as are wanted may be drawn again. As app/contract/messages/series.py. */

/** The texts of the form's lines, as the body says them; nothing is chosen among the places of a way. */
export function spokenExpectations({ expect, best_of, min_probability, image_embedding }) {
  const texts = (expect ?? []).map((text) => text.trim()).filter(Boolean);
  const isWay = !!image_embedding?.at;
  return { expect: texts, best_of: isWay ? "" : best_of, min_probability: isWay ? "" : min_probability };
}

/** Pictures that may be drawn where so many are `wanted`: more than these, where some are chosen or drawn again. */
export function mostDrawn(request, wanted) {
  const { best_of, min_probability } = spokenExpectations(request);
  return (best_of || wanted) + (typeof min_probability === "number" ? REDRAWN * wanted : 0);
}

/** What is left of `best_of` where another number is wanted: nothing, if so many cannot be chosen among them. */
export const stillChosen = (best_of, wanted) => (best_of >= wanted ? best_of : "");

/** How well a picture fits, in one line; "" where nobody has judged it. */
export function verdict({ score, probability }) {
  if (score == null) return "";
  return probability == null ? `score ${score.toFixed(3)}` : `score ${score.toFixed(3)}, probability ${percent(probability)}`;
}

/** What became of a picture that was drawn to choose from. */
export function fate({ kept, pruned_at: at }) {
  if (kept) return "kept";
  return at == null ? "not kept" : `given up after step ${at}`;
}

function percent(probability) {
  if (probability > 0 && probability < LEAST_PERCENT) return "under 0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}
