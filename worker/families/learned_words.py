"""Words of a prompt that stand for vectors of their own, among all others: textual inversions.

Knows names and token ids. Knows no tokenizer and no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence


class LearnedWords:
    """`ids` of each word. A word stands by itself, in capitals or not: one called ink is not found in drinking."""

    def __init__(self, ids: Mapping[str, range]) -> None:
        self._ids = {word.casefold(): own for word, own in ids.items()}
        self._names = {word.casefold(): word for word in ids}
        self._words = {token: word for word, own in ids.items() for token in own}
        longest_first = sorted(ids, key=len, reverse=True)
        alternatives = "|".join(re.escape(word) for word in longest_first)
        self._pattern = re.compile(rf"(?<!\w)({alternatives})(?!\w)", re.IGNORECASE) if ids else None

    def __bool__(self) -> bool:
        return bool(self._ids)

    def split(self, text: str) -> list[str | range]:
        """Text between the words, which may be empty, and the ids of the words, in their order."""
        if self._pattern is None:
            return [text]
        pieces = self._pattern.split(text)
        return [self._ids[piece.casefold()] if at % 2 else piece for at, piece in enumerate(pieces)]

    def named_in(self, text: str) -> list[str]:
        """Each once, as their files call them."""
        found = self._pattern.findall(text) if self._pattern else []
        return list(dict.fromkeys(self._names[word.casefold()] for word in found))

    def said(self, ids: Sequence[int]) -> Iterator[str | list[int]]:
        """What tokens were: words by their names, and all others as they are."""
        others: list[int] = []
        for at, token in enumerate(ids):
            word = self._words.get(token)
            if word is None:
                others.append(token)
            elif at == 0 or self._words.get(ids[at - 1]) != word or ids[at - 1] >= token:
                yield others
                yield word
                others = []
        yield others
