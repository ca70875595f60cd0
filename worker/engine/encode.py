"""From prompts to what the UNet is conditioned on.

A prompt longer than the text encoder reads at once is read window by window, and the windows' outputs are joined along
the tokens: what AUTOMATIC1111 and Compel do, where StableDiffusionPipeline drops the rest
(docs/decisions/0020-long-prompts-are-read-in-windows.md).

The only place that tokenizes. Fast tokenizers keep padding as state of the shared object and are not thread-safe:
all of this runs in the engine's thread.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from worker.engine.errors import EngineError
from worker.engine.isolate import isolate
from worker.engine.sample import Request
from worker.models.bundle import PROMPT_WINDOWS, Bundle

CACHED_PROMPTS = 256
"""At 77 x 768 float32 values a window, 60 MB of embeddings; three times that if all of them were long."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt as the text encoder read it: [windows x context_length, width], how many tokens of text those were, and
    the text left over."""

    tensor: torch.Tensor
    tokens_read: int
    unread: str


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the rows of a request are conditioned on, [tokens, width] each. Unguided requests have no second one; where
    there is one, both are equally long."""

    conditional: torch.Tensor
    unconditional: torch.Tensor | None
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """A multiple of the model's context_length. Part of the lane: samples of one UNet call have equally many."""
        return len(self.conditional)


class PromptEncoder:
    """Encodes prompts in batches and remembers the last ones. The empty prompt is never forgotten."""

    def __init__(self, bundle: Bundle, *, capacity: int = CACHED_PROMPTS) -> None:
        self._bundle = bundle
        self._capacity = capacity
        self._recent: OrderedDict[tuple[str, bool], Embedding] = OrderedDict()
        with torch.inference_mode():
            self._empty = self._encode([""])[0]

    def condition(self, requests: Sequence[Request]) -> list[Conditioning | EngineError]:
        """One answer for each request, in order. Raises DeviceLost."""
        known = {
            alone: self._lookup((p for r in requests if r.reproducible is alone for p in prompts_of(r)), alone=alone)
            for alone in (False, True)
        }
        return [_conditioning(request, known[request.reproducible]) for request in requests]

    def _lookup(self, prompts: Iterable[str], *, alone: bool) -> dict[str, Embedding | EngineError]:
        """`alone`: encoded one by one, for reproducible requests. The last bits depend on the company in a call."""
        wanted = dict.fromkeys(prompts)
        known: dict[str, Embedding | EngineError] = {"": self._empty}
        for prompt in wanted:
            if (prompt, alone) in self._recent:
                self._recent.move_to_end((prompt, alone))
                known[prompt] = self._recent[prompt, alone]
        missing = [prompt for prompt in wanted if prompt not in known]
        for batch in [[prompt] for prompt in missing] if alone else [missing]:
            for prompt, result in zip(batch, isolate(batch, self._encode, name="encode"), strict=True):
                known[prompt] = result
                if isinstance(result, Embedding):
                    self._recent[prompt, alone] = result
        while len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
        return known

    def _encode(self, prompts: Sequence[str]) -> list[Embedding]:
        """One call of the text encoder for all windows of all prompts."""
        bundle = self._bundle
        whole = bundle.tokenizer(list(prompts), padding=False, truncation=False, verbose=False).input_ids
        windows = [_windows(ids, bundle.context_length) for ids in whole]
        ids, mask = _padded([window for each in windows for window in each], bundle)
        # Stable Diffusion shows its text encoder the padding, except where the encoder's configuration asks for a mask.
        masked = getattr(bundle.text_encoder.config, "use_attention_mask", False)
        read = bundle.text_encoder(ids.to(bundle.device), attention_mask=mask.to(bundle.device) if masked else None)[0]
        tensors = read.to(bundle.dtype).split([len(each) for each in windows])
        return [self._embedding(tensor.flatten(0, 1), ids) for tensor, ids in zip(tensors, whole, strict=True)]

    def _embedding(self, tensor: torch.Tensor, ids: list[int]) -> Embedding:
        """`ids` are those of the whole prompt, between a start and an end token."""
        text, most = ids[1:-1], self._bundle.max_prompt_tokens
        return Embedding(tensor, min(len(text), most), self._bundle.tokenizer.decode(text[most:]).strip())


def _windows(ids: list[int], length: int) -> list[list[int]]:
    """At least one window of at most `length` tokens, each with the start and the end token of the whole."""
    start, *text, end = ids
    size = length - 2
    first_tokens = range(0, max(1, len(text)), size)[:PROMPT_WINDOWS]
    return [[start, *text[first : first + size], end] for first in first_tokens]


def _padded(windows: Sequence[list[int]], bundle: Bundle) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, int64 [windows, context_length]."""
    shape = (len(windows), bundle.context_length)
    ids = torch.full(shape, bundle.tokenizer.pad_token_id)
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


def prompts_of(request: Request) -> tuple[str, ...]:
    """The prompts that matter to this request."""
    return (request.prompt, request.negative_prompt) if request.is_guided else (request.prompt,)


def _conditioning(request: Request, known: dict[str, Embedding | EngineError]) -> Conditioning | EngineError:
    embeddings = []
    for prompt in prompts_of(request):
        result = known[prompt]
        if isinstance(result, EngineError):
            return result
        embeddings.append(result)
    warnings = [
        f"Only the first {embedding.tokens_read} tokens of the {field} were read; not read: {embedding.unread!r}."
        for field, embedding in zip(("prompt", "negative prompt"), embeddings, strict=False)
        if embedding.unread
    ]
    if request.negative_prompt and not request.is_guided:
        warnings.append("The negative prompt had no effect: it needs a guidance_scale above 1.")
    if not request.is_guided:
        return Conditioning(embeddings[0].tensor, None, tuple(warnings))
    return Conditioning(*equally_long(embeddings[0].tensor, embeddings[1].tensor), tuple(warnings))
