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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.contract.messages.prompt_syntax import read_as_letters
from app.contract.messages.vocabulary import Vocabulary, unlearned
from worker.engine.errors import EngineError
from worker.engine.isolate import isolate
from worker.engine.request import Request
from worker.engine.rows import CONTEXT, Conditioning, Conditions
from worker.engine.transfer import to_device
from worker.models.bundle import PROMPT_WINDOWS, Bundle

CACHED_PROMPTS = 256
"""At 77 x 768 float32 values a window, 60 MB of embeddings; three times that if all of them were long."""


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


class PromptEncoder:
    """Encodes prompts in batches and remembers the last ones. The empty prompt is never forgotten."""

    def __init__(self, bundle: Bundle, *, capacity: int = CACHED_PROMPTS) -> None:
        self._bundle = bundle
        self._capacity = capacity
        self._vocabulary = Vocabulary(bundle.defaults.vocabulary)
        self._recent: OrderedDict[tuple[str, bool], Embedding] = OrderedDict()
        with torch.inference_mode():
            self._empty = self._encode([""])[0]

    def condition(self, requests: Sequence[Request]) -> list[Conditioning | EngineError]:
        """One answer for each request, in order. Raises DeviceLost."""
        known = {
            alone: self._lookup((p for r in requests if r.reproducible is alone for p in prompts_of(r)), alone=alone)
            for alone in (False, True)
        }
        return [self._conditioning(request, known[request.reproducible]) for request in requests]

    def _conditioning(
        self, request: Request, known: Mapping[str, Embedding | EngineError]
    ) -> Conditioning | EngineError:
        prompt, *negative = [known[prompt] for prompt in prompts_of(request)]
        if isinstance(prompt, EngineError):
            return prompt
        if not negative:
            return Conditioning(_conditions(request, prompt, prompt.context), {}, self._warnings(request, [prompt]))
        if isinstance(negative[0], EngineError):
            return negative[0]
        warnings = self._warnings(request, [prompt, negative[0]])
        zeros = self._bundle.force_zeros_for_empty_prompt and not request.negative_prompt
        other = prompt.zeros() if zeros else negative[0]
        conditional, unconditional = equally_long(prompt.context, other.context)
        return Conditioning(
            _conditions(request, prompt, conditional), _conditions(request, other, unconditional), warnings
        )

    def _warnings(self, request: Request, embeddings: Sequence[Embedding]) -> tuple[str, ...]:
        warnings = [
            f"Only the first {embedding.tokens_read} tokens of the {field} were read; not read: {embedding.unread!r}."
            for field, embedding in zip(("prompt", "negative prompt"), embeddings, strict=False)
            if embedding.unread
        ]
        if request.negative_prompt and not request.is_guided:
            warnings.append("The negative prompt had no effect: it needs a guidance_scale above 1.")
        for prompt, field in zip(prompts_of(request), ("prompt", "negative prompt"), strict=False):
            warnings += read_as_letters(prompt, field=field)
        for text, of in zip(prompts_of(request), ("", "of the negative prompt"), strict=False):
            if unknown := self._vocabulary.unknown(text):
                warnings.append(unlearned(self._bundle.name, unknown, of=of))
        return tuple(warnings)

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
        contexts, pooled = self._read([window for each in windows for window in each])
        counts = [len(each) for each in windows]
        vectors = [None] * len(whole) if pooled is None else [each[0] for each in pooled.split(counts)]
        return [
            self._embedding(context.flatten(0, 1), vector, ids)
            for context, vector, ids in zip(contexts.split(counts), vectors, whole, strict=True)
        ]

    def _read(self, windows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context [windows, context_length, width], and SDXL's pooled text [windows, projection]."""
        bundle = self._bundle
        if bundle.text_encoder_2 is None:
            return self._ask(bundle.tokenizer, bundle.text_encoder, windows)[0].to(bundle.dtype), None
        first = self._ask(bundle.tokenizer, bundle.text_encoder, windows, output_hidden_states=True)
        second = self._ask(bundle.tokenizer_2, bundle.text_encoder_2, windows, output_hidden_states=True)
        # Both encoders are read one layer before their last, and side by side (Podell et al. 2023, section 2.1).
        context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return context.to(bundle.dtype), second.text_embeds.to(bundle.dtype)

    def _ask(self, tokenizer: Any, text_encoder: Any, windows: Sequence[list[int]], **options: bool) -> Any:
        ids, mask = _padded(windows, self._bundle.context_length, tokenizer.pad_token_id)
        device = self._bundle.device
        # Stable Diffusion shows its text encoder the padding, except where the encoder's configuration asks for a mask.
        masked = getattr(text_encoder.config, "use_attention_mask", False)
        attention_mask = to_device(mask, device) if masked else None
        return text_encoder(to_device(ids, device), attention_mask=attention_mask, **options)

    def _embedding(self, context: torch.Tensor, pooled: torch.Tensor | None, ids: list[int]) -> Embedding:
        """`ids` are those of the whole prompt, between a start and an end token."""
        text, most = ids[1:-1], self._bundle.max_prompt_tokens
        return Embedding(context, pooled, min(len(text), most), self._bundle.tokenizer.decode(text[most:]).strip())


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


def prompts_of(request: Request) -> tuple[str, ...]:
    """The prompts that matter to this request."""
    return (request.prompt, request.negative_prompt) if request.is_guided else (request.prompt,)


def _conditions(request: Request, read: Embedding, context: torch.Tensor) -> Conditions:
    """By the UNet's names. SDXL is also told the sizes: the picture is neither enlarged nor cropped."""
    if read.pooled is None:
        return {CONTEXT: context}
    size = (request.height, request.width)
    time_ids = to_device(torch.tensor((*size, 0, 0, *size), dtype=context.dtype), context.device)
    return {CONTEXT: context, "text_embeds": read.pooled, "time_ids": time_ids}
