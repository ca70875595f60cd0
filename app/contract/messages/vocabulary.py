"""Which words of a prompt a model has not learned, by the list that its folder gives.

Knows what a word is, in any script, and what a slip of the finger is; refuses to know any model. The page says the same
while somebody types, by app/static/vocabulary.js; tests/contract/vocabulary_cases.json holds the two together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST_WORD = 40
"""Letters of an unknown word that are said again: a script without spaces has sentences of one word."""

MOST_SAID = 12
"""Unknown words that a warning names; it counts the others."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
"""For digits, where a list knows the word instead."""

SAME_LETTERS = str.maketrans({"\u2019": "'", "\u2010": "-", "\ufe0e": None, "\ufe0f": None})
"""A typographer's apostrophe and hyphen, and the selectors that say how an emoji is drawn."""


@dataclass(frozen=True, slots=True)
class UnknownWord:
    """`near` is the listed word that was probably meant, None if there is no such word."""

    word: str
    near: str | None = None


class Vocabulary:
    """A model's list, asked. An empty one is that of a model which says nothing of its words: to it none is unknown."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries` are words or phrases; what counts of a phrase is its words."""
        self._known = dict.fromkeys(word for entry in entries for word in words_of(entry))

    def unknown(self, text: str) -> list[UnknownWord]:
        """The words of `text` that are not in the list, each once, in their order.

        What was meant is looked for only where it will be said: a prompt may have hundreds of words.
        """
        if not self._known:
            return []
        strangers = list(dict.fromkeys(word for word in words_of(text) if not self._is_known(word)))
        named = [UnknownWord(word, self._near(word)) for word in strangers[:MOST_SAID]]
        return named + [UnknownWord(word) for word in strangers[MOST_SAID:]]

    def _is_known(self, word: str) -> bool:
        """As it stands, without the s of whose it is, or by the parts that hyphens join."""
        return any(
            form in self._known or all(part in self._known for part in form.split("-"))
            for form in (word, word.removesuffix("'s"))
        )

    def _near(self, word: str) -> str | None:
        """The first letter is rarely missed. Short words are near to too many for a guess."""
        if word.isascii() and word.isdigit() and len(word) < 3 and int(word) < len(NUMBERS):
            number = NUMBERS[int(word)]
            return number if number in self._known else None
        slips = 0 if len(word) < 4 else 1 if len(word) < 7 else 2
        alike = [each for each in self._known if each[0] == word[0] and abs(len(each) - len(word)) <= slips]
        distances = [(distance(word, each), each) for each in alike]
        least, nearest = min(distances, key=lambda each: each[0], default=(slips + 1, None))
        return nearest if least <= slips else None


def words_of(text: str) -> list[str]:
    """In small letters, hyphens and apostrophes inside them kept. Digits are words, and so is each emoji."""
    plain = unicodedata.normalize("NFKC", text).lower().translate(SAME_LETTERS)
    words = (word.strip("-'") for word in "".join(map(_apart, plain)).replace("--", " ").split())
    return [word for word in words if word]


def _apart(letter: str) -> str:
    """The letter, with spaces around what is a word by itself, or a space for what is no part of one."""
    category = unicodedata.category(letter)
    if category[0] in "LMN" or letter in "-'":
        return letter
    if category == "So":
        return f" {letter} "
    return "" if category == "Cf" else " "


def distance(one: str, other: str) -> int:
    """Letters missing, added, wrong, or swapped with their neighbour: the optimal string alignment distance."""
    before, last = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, its in enumerate(other, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != its)))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], its):
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]


def unlearned(model: str, found: Sequence[UnknownWord], *, of: str = "") -> str:
    """One sentence: "starter has not learned: elefant (did you mean: elephant?), riding." `of` is where they stand."""
    said = [f"{_short(each.word)} (did you mean: {each.near}?)" if each.near else _short(each.word) for each in found]
    rest = len(said) - MOST_SAID
    more = f" and {rest} more" if rest > 0 else ""
    return f"{model} has not learned{f', {of}' if of else ''}: {', '.join(said[:MOST_SAID])}{more}."


def _short(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else f"{word[:LONGEST_WORD]}…"
