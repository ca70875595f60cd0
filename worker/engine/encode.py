"""From prompts to what the UNet is conditioned on.

The only place that tokenizes. Fast tokenizers keep padding as state of the shared object and are not thread-safe:
all of this runs in the engine's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from worker.engine.errors import EngineError
from worker.engine.isolate import isolate
from worker.engine.sample import Request
from worker.models.bundle import Bundle

CACHED_PROMPTS = 256
"""At 77 x 768 float32 values each, 60 MB of embeddings."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt as the text encoder read it: [tokens, width], how many tokens those were, and the text left over."""

    tensor: torch.Tensor
    tokens_read: int
    unread: str


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the rows of a request are conditioned on, [tokens, width] each. Unguided requests have no second one."""

    conditional: torch.Tensor
    unconditional: torch.Tensor | None
    warnings: tuple[str, ...]


class PromptEncoder:
    """Encodes prompts in batches and remembers the last ones. The empty prompt is never forgotten."""

    def __init__(self, bundle: Bundle, *, capacity: int = CACHED_PROMPTS) -> None:
        self._bundle = bundle
        self._capacity = capacity
        self._recent: OrderedDict[str, Embedding] = OrderedDict()
        with torch.inference_mode():
            self._empty = self._encode([""])[0]

    def condition(self, requests: Sequence[Request]) -> list[Conditioning | EngineError]:
        """One answer for each request, in order. Raises DeviceLost."""
        known = self._lookup(prompt for request in requests for prompt in prompts_of(request))
        return [_conditioning(request, known) for request in requests]

    def _lookup(self, prompts: Iterable[str]) -> dict[str, Embedding | EngineError]:
        wanted = dict.fromkeys(prompts)
        known: dict[str, Embedding | EngineError] = {"": self._empty}
        for prompt in wanted.keys() & self._recent.keys():
            self._recent.move_to_end(prompt)
            known[prompt] = self._recent[prompt]
        missing = [prompt for prompt in wanted if prompt not in known]
        for prompt, result in zip(missing, isolate(missing, self._encode, name="encode"), strict=True):
            known[prompt] = result
            if isinstance(result, Embedding):
                self._recent[prompt] = result
        while len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
        return known

    def _encode(self, prompts: Sequence[str]) -> list[Embedding]:
        bundle = self._bundle
        length = bundle.context_length
        read = bundle.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        whole = bundle.tokenizer(list(prompts), padding=False, truncation=False, verbose=False).input_ids
        # Stable Diffusion shows its text encoder the padding, except where the encoder's configuration asks for a mask.
        masked = getattr(bundle.text_encoder.config, "use_attention_mask", False)
        mask = read.attention_mask.to(bundle.device) if masked else None
        tensors = bundle.text_encoder(read.input_ids.to(bundle.device), attention_mask=mask)[0].to(bundle.dtype)
        return [self._embedding(tensor, ids) for tensor, ids in zip(tensors, whole, strict=True)]

    def _embedding(self, tensor: torch.Tensor, ids: list[int]) -> Embedding:
        """`ids` are those of the whole prompt, between a start and an end token."""
        last = self._bundle.context_length - 1
        unread = self._bundle.tokenizer.decode(ids[last:-1])
        return Embedding(tensor, tokens_read=min(len(ids) - 1, last) - 1, unread=unread.strip())


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
    unconditional = embeddings[1].tensor if request.is_guided else None
    return Conditioning(embeddings[0].tensor, unconditional, tuple(warnings))
