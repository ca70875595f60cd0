"""Prompts read: token by token in windows, encoded in batches, remembered, and judged by the words of the model.

A prompt longer than the text encoder reads at once is read window by window, and the windows' outputs are joined along
the tokens: what AUTOMATIC1111 and Compel do, where StableDiffusionPipeline drops the rest
(docs/decisions/0020-long-prompts-are-read-in-windows.md).

The only place that tokenizes. Fast tokenizers keep padding as state of the shared object and are not thread-safe:
all of this runs in the engine's thread. Knows no rows: what becomes of an embedding is its family's affair.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.contract.messages.prompt_syntax import read_as_letters
from app.contract.messages.vocabulary import Vocabulary, unlearned
from worker.engine.errors import EngineError
from worker.engine.isolate import isolate
from worker.engine.transfer import to_device
from worker.models.bundle import PROMPT_WINDOWS, Bundle

CACHED_PROMPTS = 256
"""At 77 x 768 float32 values a window, 60 MB of embeddings; three times that if all of them were long."""

FIELDS = ("prompt", "negative prompt")

Windows = Sequence[list[int]]
"""Token ids of each window, from its start to its end token."""

Encode = Callable[[Windows], tuple[torch.Tensor, torch.Tensor | None]]
"""Context [windows, context_length, width] and pooled text [windows, projection], for a network that wants that."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt as the model reads it: `context` [windows x context_length, width], and SDXL's `pooled` [projection],
    the first window as one vector; how many tokens of text those were, and the text left over."""

    context: torch.Tensor
    pooled: torch.Tensor | None
    tokens_read: int
    unread: str

    def zeros(self) -> Embedding:
        """What SDXL takes for an empty negative prompt."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, context=torch.zeros_like(self.context), pooled=pooled)


@dataclass(frozen=True, slots=True)
class Texts:
    """The prompts of one request that its rows are made of. `alone`: each is encoded by itself, for reproducible
    pictures, since the last bits depend on the company in a call."""

    prompts: tuple[str, ...]
    alone: bool


class PromptReader:
    """Encodes prompts in batches and remembers the last ones. The empty prompt is never forgotten."""

    def __init__(self, bundle: Bundle, encode: Encode, *, capacity: int = CACHED_PROMPTS) -> None:
        self._name = bundle.name
        self._tokenizer = bundle.tokenizer
        self._window = bundle.context_length
        self._most_tokens = bundle.max_prompt_tokens
        self._vocabulary = Vocabulary(bundle.defaults.vocabulary)
        self._encode = encode
        self._capacity = capacity
        self._recent: OrderedDict[tuple[str, bool], Embedding] = OrderedDict()
        with torch.inference_mode():
            self.empty = self._read([""])[0]

    def read(self, requests: Sequence[Texts]) -> list[list[Embedding] | EngineError]:
        """For each request its embeddings in the order of its prompts, or the first error. Raises DeviceLost."""
        known = {
            alone: self._lookup((p for texts in requests if texts.alone is alone for p in texts.prompts), alone=alone)
            for alone in (False, True)
        }
        return [_all_or_error([known[texts.alone][prompt] for prompt in texts.prompts]) for texts in requests]

    def unread(self, embeddings: Sequence[Embedding]) -> list[str]:
        """Warnings about what was left over of a prompt and, second, its negative one."""
        return [
            f"Only the first {embedding.tokens_read} tokens of the {field} were read; not read: {embedding.unread!r}."
            for field, embedding in zip(FIELDS, embeddings, strict=False)
            if embedding.unread
        ]

    def misread(self, prompts: Sequence[str]) -> list[str]:
        """Warnings about what was read in these two, and hardly meant like that."""
        warnings: list[str] = []
        for prompt, field in zip(prompts, FIELDS, strict=False):
            warnings += read_as_letters(prompt, field=field)
        for prompt, of in zip(prompts, ("", "of the negative prompt"), strict=False):
            if unknown := self._vocabulary.unknown(prompt):
                warnings.append(unlearned(self._name, unknown, of=of))
        return warnings

    def _lookup(self, prompts: Iterable[str], *, alone: bool) -> dict[str, Embedding | EngineError]:
        wanted = dict.fromkeys(prompts)
        known: dict[str, Embedding | EngineError] = {"": self.empty}
        for prompt in wanted:
            if (prompt, alone) in self._recent:
                self._recent.move_to_end((prompt, alone))
                known[prompt] = self._recent[prompt, alone]
        missing = [prompt for prompt in wanted if prompt not in known]
        for batch in [[prompt] for prompt in missing] if alone else [missing]:
            for prompt, result in zip(batch, isolate(batch, self._read, name="encode"), strict=True):
                known[prompt] = result
                if isinstance(result, Embedding):
                    self._recent[prompt, alone] = result
        while len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
        return known

    def _read(self, prompts: Sequence[str]) -> list[Embedding]:
        """One call of the text encoder for all windows of all prompts."""
        whole = self._tokenizer(list(prompts), padding=False, truncation=False, verbose=False).input_ids
        windows = [_windows(ids, self._window) for ids in whole]
        contexts, pooled = self._encode([window for each in windows for window in each])
        counts = [len(each) for each in windows]
        vectors = [None] * len(whole) if pooled is None else [each[0] for each in pooled.split(counts)]
        return [
            self._embedding(context.flatten(0, 1), vector, ids)
            for context, vector, ids in zip(contexts.split(counts), vectors, whole, strict=True)
        ]

    def _embedding(self, context: torch.Tensor, pooled: torch.Tensor | None, ids: list[int]) -> Embedding:
        """`ids` are those of the whole prompt, between a start and an end token."""
        text, most = ids[1:-1], self._most_tokens
        return Embedding(context, pooled, min(len(text), most), self._tokenizer.decode(text[most:]).strip())


def _all_or_error(results: Sequence[Embedding | EngineError]) -> list[Embedding] | EngineError:
    error = next((result for result in results if isinstance(result, EngineError)), None)
    return error or [result for result in results if isinstance(result, Embedding)]


def run_text_encoder(
    tokenizer: Any, text_encoder: Any, windows: Windows, *, length: int, device: torch.device, **options: bool
) -> Any:
    """What a text encoder of transformers answers to windows of at most `length` tokens, filled up to that."""
    ids, mask = _padded(windows, length, tokenizer.pad_token_id)
    # Stable Diffusion shows its text encoder the padding, except where the encoder's configuration asks for a mask.
    masked = getattr(text_encoder.config, "use_attention_mask", False)
    attention_mask = to_device(mask, device) if masked else None
    return text_encoder(to_device(ids, device), attention_mask=attention_mask, **options)


def _windows(ids: list[int], length: int) -> list[list[int]]:
    """At least one window of at most `length` tokens, each with the start and the end token of the whole."""
    start, *text, end = ids
    size = length - 2
    first_tokens = range(0, max(1, len(text)), size)[:PROMPT_WINDOWS]
    return [[start, *text[first : first + size], end] for first in first_tokens]


def _padded(windows: Sequence[list[int]], length: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, int64 [windows, length]."""
    shape = (len(windows), length)
    ids = torch.full(shape, padding)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
        mask[row, : len(window)] = 1
    return ids, mask


def equally_long(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both contexts, [tokens, width], repeated until they have equally many tokens.

    Cross-attention is a mean weighted by softmax, and the keys have no position: a context repeated as a whole gives
    what the context alone gives. Filled up with windows of the empty prompt, it would not.
    """
    tokens = math.lcm(len(a), len(b))
    return a.repeat(tokens // len(a), 1), b.repeat(tokens // len(b), 1)
