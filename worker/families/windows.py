"""A prompt's tokens, cut into windows: what a text encoder reads at once, and by how much each token counts.

Plain prompts are cut where a window is full (docs/decisions/0020-long-prompts-are-read-in-windows.md), prompts in
AUTOMATIC1111's syntax by its rules (docs/decisions/0025-prompts-in-automatic1111s-syntax.md).

The only place that tokenizes. Fast tokenizers keep padding as state of the shared object and are not thread-safe:
all of this runs in the engine's thread. Knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from app.contract.messages.a1111_syntax import Section, sections
from app.contract.messages.spec import PromptSyntax
from worker.families.learned_words import LearnedWords

COMMA_REACH: Final = 20
"""Tokens. A window that is full ends behind a comma that is no further back: AUTOMATIC1111's default ("Prompt word wrap
length limit")."""


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids from the start to the end token, and the weight of each."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Cut:
    """A prompt's windows, one at least; how many tokens of text are in them, and the text that is left over."""

    windows: list[Window]
    tokens_read: int
    unread: str


class Cutter:
    """Cuts prompts into at most `most` windows of `length` tokens, the two that mark start and end included."""

    def __init__(self, tokenizer: Any, words: LearnedWords, *, length: int, most: int) -> None:
        self._tokenizer = tokenizer
        self._words = words
        self._size = length - 2
        self._most = most
        self._start, self._end = self._tokenized([""], special=True)[0]
        comma = self._ids([","])[0]
        self._comma = comma[0] if len(comma) == 1 else None

    def cut(self, prompts: Sequence[str], syntax: PromptSyntax) -> list[Cut]:
        """All of them, in the same syntax."""
        if syntax == "a1111":
            return [self._kept(self._weighted(prompt)) for prompt in prompts]
        return [self._kept(self._plain(ids)) for ids in self._ids(prompts)]

    def _plain(self, ids: list[int]) -> list[Window]:
        ones = [1.0] * len(ids)
        return [self._window(ids[at : at + self._size], ones) for at in range(0, max(1, len(ids)), self._size)]

    def _weighted(self, prompt: str) -> list[Window]:
        """A BREAK ends a window, and one at the end begins none."""
        found = sections(prompt)
        if len(found) > 1 and not found[-1]:
            found.pop()
        return [window for section in found for window in self._wrapped(section)]

    def _wrapped(self, section: Section) -> list[Window]:
        """A section in windows, each but the last ended behind a comma if there is one near its end."""
        texts = self._ids([piece.text for piece in section]) if section else []
        ids = [token for tokens in texts for token in tokens]
        weights = [piece.weight for piece, tokens in zip(section, texts, strict=True) for _ in tokens]
        windows: list[Window] = []
        while len(ids) > self._size:
            at = self._wrap(ids)
            windows.append(self._window(ids[:at], weights))
            ids, weights = ids[at:], weights[at:]
        return [*windows, self._window(ids, weights)]

    def _wrap(self, ids: list[int]) -> int:
        """How many of too many tokens go into a window. A comma that would be the first of the next one stays there:
        then the window is full of words that belong together."""
        size = self._size
        if ids[size] != self._comma:
            for at in range(size - 1, max(-1, size - 1 - COMMA_REACH), -1):
                if ids[at] == self._comma:
                    return at + 1
        return size

    def _window(self, ids: list[int], weights: list[float]) -> Window:
        """`weights` may go on behind the `ids`."""
        return Window([self._start, *ids, self._end], [1.0, *weights[: len(ids)], 1.0])

    def _kept(self, windows: list[Window]) -> Cut:
        kept, dropped = windows[: self._most], windows[self._most :]
        unread = [token for window in dropped for token in window.ids[1:-1]]
        return Cut(kept, sum(len(window.ids) - 2 for window in kept), self._said(unread))

    def _said(self, ids: list[int]) -> str:
        """The text of tokens."""
        pieces = [each if isinstance(each, str) else self._tokenizer.decode(each) for each in self._words.said(ids)]
        return " ".join(piece.strip() for piece in pieces if piece.strip())

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text, without the tokens that mark start and end."""
        pieces = [self._words.split(text) for text in texts]
        plain = iter(self._tokenized([piece for each in pieces for piece in each if isinstance(piece, str)]))
        return [
            [token for piece in each for token in (next(plain) if isinstance(piece, str) else piece)] for each in pieces
        ]

    def _tokenized(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        answer = self._tokenizer(
            list(texts), padding=False, truncation=False, verbose=False, add_special_tokens=special
        )
        ids: list[list[int]] = answer.input_ids
        return ids


def padded(windows: Sequence[Window], length: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, int64 [windows, length]."""
    shape = (len(windows), length)
    ids = torch.full(shape, padding)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = torch.tensor(window.ids)
        mask[row, : len(window.ids)] = 1
    return ids, mask


def weights_of(windows: Sequence[Window], length: int) -> torch.Tensor | None:
    """Float32 [windows, length], 1 for the padding; None where every token counts once."""
    if all(weight == 1.0 for window in windows for weight in window.weights):
        return None
    weights = torch.ones(len(windows), length)
    for row, window in enumerate(windows):
        weights[row, : len(window.weights)] = torch.tensor(window.weights)
    return weights
