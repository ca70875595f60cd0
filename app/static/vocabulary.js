// Which words of a prompt a model has not learned: what app/contract/messages/vocabulary.py says, while somebody types.
// A test holds the two together, case by case. Refuses to know the DOM.

const NAMED = 12;
const NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/** The words of a text in small letters; hyphens and apostrophes stay inside them, digits and emoji are words. */
export function wordsOf(text) {
  return text
    .normalize("NFKC")
    .toLowerCase()
    .replaceAll("\u2019", "'")
    .replaceAll("\u2010", "-")
    .replace(/[\p{Cf}\ufe0e\ufe0f]/gu, "")
    .replace(/\p{So}/gu, " $& ")
    .replace(/[^\p{L}\p{M}\p{N}\p{So}'-]+/gu, " ")
    .replaceAll("--", " ")
    .split(/\s+/u)
    .map((word) => word.replace(/^[-']+|[-']+$/g, ""))
    .filter(Boolean);
}

export class Vocabulary {
  #known;

  /** `entries` are words or phrases; with none, no word is unknown. */
  constructor(entries) {
    this.#known = new Set(entries.flatMap(wordsOf));
  }

  /** The words of a text that are not in the list, each once, as {word, near}: `near` was probably meant, or is null. */
  unknown(text) {
    if (!this.#known.size) return [];
    const strangers = [...new Set(wordsOf(text))].filter((word) => !this.#isKnown(word));
    return strangers.map((word, index) => ({ word, near: index < NAMED ? this.#near(word) : null }));
  }

  #isKnown(word) {
    const forms = [word, word.replace(/'s$/, "")];
    return forms.some((form) => this.#known.has(form) || form.split("-").every((part) => this.#known.has(part)));
  }

  #near(word) {
    if (/^[0-9]{1,2}$/.test(word) && Number(word) < NUMBERS.length) {
      const number = NUMBERS[Number(word)];
      return this.#known.has(number) ? number : null;
    }
    const letters = [...word];
    const slips = letters.length < 4 ? 0 : letters.length < 7 ? 1 : 2;
    let [least, nearest] = [slips + 1, null];
    for (const known of this.#known) {
      const its = [...known];
      if (its[0] !== letters[0] || Math.abs(its.length - letters.length) > slips) continue;
      const steps = distance(letters, its);
      if (steps < least) [least, nearest] = [steps, known];
    }
    return nearest;
  }
}

/** Letters missing, added, wrong, or swapped with their neighbour. */
function distance(one, other) {
  let before = [];
  let last = Array.from({ length: other.length + 1 }, (_, j) => j);
  for (let i = 1; i <= one.length; i++) {
    const row = [i];
    for (let j = 1; j <= other.length; j++) {
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (one[i - 1] === other[j - 1] ? 0 : 1));
      if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) row[j] = Math.min(row[j], before[j - 2] + 1);
    }
    [before, last] = [last, row];
  }
  return last[other.length];
}

/** A text with a word in another's place, wherever it stands by itself. */
export function replaced(text, word, other) {
  const literal = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return text.replace(new RegExp(`(?<![\\p{L}\\p{M}\\p{N}])${literal}(?![\\p{L}\\p{M}\\p{N}])`, "giu"), other);
}
