r"""AUTOMATIC1111's prompt syntax: weights and BREAK, as the wiki of stable-diffusion-webui publishes them ("Features":
Attention/emphasis, Infinite prompt length, BREAK keyword). LoRA tags are in `lora_tags`.

`(cat)` is x 1.1, `((cat))` x 1.21, `(cat:1.5)` x 1.5, `[cat]` / 1.1; a backslash before a bracket or a backslash makes
it a letter, and any other backslash vanishes. Brackets that are never closed reach to the end.

Knows text. Refuses to know tokens and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ROUND: Final = 1.1
SQUARE: Final = 1 / 1.1

_MEANINGFUL: Final = re.compile(r"[][()\\]|\b(?:BREAK|AND)\b|<(?=\w+:[^>]+>)")
"""What a prompt that is read as letters may have by chance."""

MOST_WEIGHT: Final = 100.0
"""Nobody weighs a word like that; far beyond, the embedding overflows and the picture is lost."""

_MARKS: Final = re.compile(
    r"\\(?P<letter>[][()\\]?)"
    r"|:\s*+(?P<weight>[+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++))\s*+\)"
    r"|(?P<break>\bBREAK\b\s*)"
    r"|(?P<bracket>[][()])"
)


@dataclass(slots=True)
class Weighted:
    """A piece of a prompt, and by how much it counts."""

    text: str
    weight: float = 1.0


Section = list[Weighted]
"""What stands between two BREAKs: pieces whose neighbours have other weights, none of them empty."""


def sections(prompt: str) -> list[Section]:
    """The prompt cut at every BREAK, and into pieces of one weight each. At least one section, which may be empty."""
    pieces = _Pieces()
    at = 0
    for found in _MARKS.finditer(prompt):
        before = prompt[at : found.start()]
        pieces.add(before.rstrip() if found["break"] else before)
        at = found.end()
        _take(found, pieces)
    pieces.add(prompt[at:])
    return [_merged(section) for section in pieces.closed()]


def escaped(prompt: str) -> str:
    """The prompt so that this syntax reads the letters that it has. Brackets and backslashes get a backslash. BREAK and
    AND, and what looks like a LoRA tag, cannot be escaped: they are written so that a tokenizer of small letters that
    splits at punctuation, as CLIP's, makes the same tokens of them."""

    def written(found: re.Match[str]) -> str:
        mark = found[0]
        return "< " if mark == "<" else mark.lower() if mark.isalpha() else f"\\{mark}"

    return _MEANINGFUL.sub(written, prompt)


def words_of(prompt: str) -> str:
    """The prompt as it is read, without weights and BREAK."""
    return " ".join("".join(piece.text for piece in section) for section in sections(prompt))


def heaviest(prompt: str) -> float:
    """The largest weight in it, whatever its sign; 1 at least."""
    return max((abs(piece.weight) for section in sections(prompt) for piece in section), default=1.0)


class _Pieces:
    """Pieces found so far, and where the brackets that are still open began. A None is a BREAK."""

    def __init__(self) -> None:
        self._pieces: list[Weighted | None] = []
        self._opened: dict[str, list[int]] = {"(": [], "[": []}

    def add(self, text: str) -> None:
        if text:
            self._pieces.append(Weighted(text))

    def cut(self) -> None:
        self._pieces.append(None)

    def open(self, bracket: str) -> None:
        self._opened[bracket].append(len(self._pieces))

    def close(self, bracket: str, factor: float) -> bool:
        """Weighs what stands behind the last one that is open. False if none is."""
        if not self._opened[bracket]:
            return False
        for piece in self._pieces[self._opened[bracket].pop() :]:
            if piece is not None:
                piece.weight *= factor
        return True

    def closed(self) -> Iterable[list[Weighted]]:
        """The sections, with every bracket closed at the end."""
        for bracket, factor in (("(", ROUND), ("[", SQUARE)):
            while self.close(bracket, factor):
                pass
        section: list[Weighted] = []
        for piece in self._pieces:
            if piece is None:
                yield section
                section = []
            else:
                section.append(piece)
        yield section


def _take(found: re.Match[str], pieces: _Pieces) -> None:
    """What a mark does; one that closes nothing is letters."""
    mark = found[0]
    if found["letter"] is not None:
        pieces.add(found["letter"])
    elif found["break"] is not None:
        pieces.cut()
    elif mark in ("(", "["):
        pieces.open(mark)
    elif not pieces.close(*_closed_by(found)):
        pieces.add(mark)


def _closed_by(found: re.Match[str]) -> tuple[str, float]:
    """Which bracket a closing mark belongs to, and its factor."""
    if found["weight"] is not None:
        return "(", float(found["weight"])
    return ("[", SQUARE) if found[0] == "]" else ("(", ROUND)


def _merged(section: Iterable[Weighted]) -> Section:
    """Neighbours of the same weight as one, since words may be cut by a bracket."""
    merged: Section = []
    for piece in section:
        if merged and merged[-1].weight == piece.weight:
            merged[-1].text += piece.text
        else:
            merged.append(piece)
    return merged
