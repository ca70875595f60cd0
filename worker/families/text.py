"""Prompts read: window by window, encoded in batches, remembered, and judged by the words of the model.

A prompt longer than the text encoder reads at once is read window by window, and the windows' outputs are joined along
the tokens: what AUTOMATIC1111 and Compel do, where StableDiffusionPipeline drops the rest
(docs/decisions/0020-long-prompts-are-read-in-windows.md). Knows no rows: what becomes of an embedding is its family's
affair.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.contract.messages.prompt_syntax import misunderstood, words_read
from app.contract.messages.spec import PromptSyntax
from app.contract.messages.vocabulary import Vocabulary, unlearned
from worker.engine.errors import EngineError, GenerationFailed
from worker.engine.isolate import isolate
from worker.engine.transfer import to_device
from worker.families.adapters import OfText
from worker.families.learned_words import LearnedWords
from worker.families.lora_bank import adapted
from worker.families.windows import Cutter, Window, padded, weights_of
from worker.models.bundle import PROMPT_WINDOWS, Bundle

CACHED_PROMPTS = 256
"""At 77 x 768 float32 values a window, 60 MB of embeddings; three times that if all of them were long."""

FIELDS = ("prompt", "negative prompt")

MEAN_IS_ROUNDING = 1e-5
"""A mean so much smaller than the values that it is of is what rounding left of none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read. `alone`: encoded by itself, for reproducible pictures, since the last bits depend on the
    company in a call. `clip_skip`: layers of each text encoder, before the one that is read else, that are left out.
    `syntax`: what its brackets mean. `loras`: adapters of the text encoders, by their sha256, each with its weight."""

    alone: bool = False
    clip_skip: int | None = None
    syntax: PromptSyntax = "plain"
    loras: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Texts that are equal have the same embedding."""

    prompt: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class Embedding:
    """A prompt as the model reads it: `context` [windows x context_length, width], and SDXL's `pooled` [projection],
    the first window as one vector; how many tokens of text those were, and the text left over."""

    context: torch.Tensor
    pooled: torch.Tensor | None
    tokens_read: int
    unread: str

    def zeros(self) -> Embedding:
        """What SDXL takes for a negative prompt that is missing."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, context=torch.zeros_like(self.context), pooled=pooled)


class TextEncoder:
    """One of a model's text encoders, by the name of its part, with the tokenizer whose padding it knows.

    Its context is what it ends with, after its final norm; or, `before_last`, the states that its last layer gets.
    """

    def __init__(self, part: str, bundle: Bundle, *, before_last: bool = False) -> None:
        self.tokenizer = bundle.part(part.replace("text_encoder", "tokenizer"))
        self._part = part
        self._padding = self.tokenizer.pad_token_id
        self._network = bundle.part(part)
        self._before_last = before_last

    @property
    def length(self) -> int:
        """Tokens it reads at once, the two that mark start and end included."""
        return min(int(self.tokenizer.model_max_length), int(self._network.config.max_position_embeddings))

    def adapted(self, loras: Sequence[tuple[str, float]], factors: OfText) -> AbstractContextManager[None]:
        """While the context lasts, its layers have these adapters."""
        return adapted(self._network, [(factors(self._part, sha256), weight) for sha256, weight in loras])

    def read(
        self, windows: Sequence[Window], *, clip_skip: int | None, length: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of windows of at most `length` tokens, filled up to that: context [windows, length, width], weighted; and
        each as one vector, [windows, projection], if the network has such a projection."""
        ids, mask = padded(windows, length, self._padding)
        # Stable Diffusion shows its text encoder the padding, except where the encoder's configuration asks for a mask.
        masked = getattr(self._network.config, "use_attention_mask", False)
        answer = self._network(
            to_device(ids, device),
            attention_mask=to_device(mask, device) if masked else None,
            output_hidden_states=bool(clip_skip) or self._before_last,
        )
        context, weights = self._context(answer, (clip_skip or 0) + self._before_last), weights_of(windows, length)
        if weights is not None:
            context = weighted(context, to_device(weights, device))
        return context, getattr(answer, "text_embeds", None)

    def _context(self, answer: Any, left_out: int) -> torch.Tensor:
        """[windows, length, width], without the last `left_out` layers."""
        if not left_out:
            context: torch.Tensor = answer.last_hidden_state
            return context
        states: torch.Tensor = answer.hidden_states[-(left_out + 1)]
        if self._before_last:
            return states
        # Since transformers 5 the encoder is not a part of its own in CLIPTextModel any more.
        normed: torch.Tensor = getattr(self._network, "text_model", self._network).final_layer_norm(states)
        return normed


class PromptReader:
    """Encodes prompts in batches and remembers the last ones. The empty prompt is never forgotten.

    A model's `encoders` are read side by side: their contexts are joined along the width. Who gives the pooled text
    comes last. `loras` has what readings name. At most `windows` of a prompt are read.
    """

    def __init__(
        self,
        bundle: Bundle,
        encoders: Sequence[TextEncoder],
        loras: OfText,
        *,
        windows: int = PROMPT_WINDOWS,
        capacity: int = CACHED_PROMPTS,
    ) -> None:
        self._name = bundle.name
        self._window = min(encoder.length for encoder in encoders)
        self._words = LearnedWords({name: word.ids for name, word in bundle.embeddings.items()})
        self._cutter = Cutter(encoders[0].tokenizer, self._words, length=self._window, most=windows)
        self._most_skipped = bundle.max_clip_skip
        self._vocabulary = Vocabulary(bundle.vocabulary)
        self._encoders = encoders
        self._loras = loras
        self._device, self._dtype = bundle.device, bundle.dtype
        self._capacity = capacity
        self._recent: OrderedDict[Text, Embedding] = OrderedDict()
        with torch.inference_mode():
            self.empty = self._read([Text("", Reading())])[0]

    def read(self, requests: Sequence[Sequence[Text]]) -> list[list[Embedding] | EngineError]:
        """For each request its embeddings in the order of its texts, or the first error. Raises DeviceLost."""
        known = self._lookup(text for texts in requests for text in texts)
        return [_all_or_error([known[text] for text in texts]) for texts in requests]

    def words_in(self, prompts: Iterable[str]) -> list[str]:
        """The textual inversions that these name, each once."""
        return list(dict.fromkeys(word for prompt in prompts for word in self._words.named_in(prompt)))

    def unread(self, embeddings: Sequence[Embedding]) -> list[str]:
        """Warnings about what was left over of a prompt and, second, its negative one."""
        return [
            f"Only the first {embedding.tokens_read} tokens of the {field} were read; not read: {embedding.unread!r}."
            for field, embedding in zip(FIELDS, embeddings, strict=False)
            if embedding.unread
        ]

    def misread(self, prompts: Sequence[str], syntax: PromptSyntax) -> list[str]:
        """Warnings about what was read in these two, and hardly meant like that."""
        warnings: list[str] = []
        for prompt, field in zip(prompts, FIELDS, strict=False):
            warnings += misunderstood(prompt, syntax, field=field)
        for prompt, of in zip(prompts, ("", "of the negative prompt"), strict=False):
            if unknown := self._vocabulary.unknown(words_read(prompt, syntax)):
                warnings.append(unlearned(self._name, unknown, of=of))
        return warnings

    def _lookup(self, texts: Iterable[Text]) -> dict[Text, Embedding | EngineError]:
        known: dict[Text, Embedding | EngineError] = {}
        missing: dict[Reading, list[Text]] = {}
        for text in dict.fromkeys(texts):
            if not text.prompt and replace(text.reading, alone=False) == Reading():
                known[text] = self.empty
            elif text in self._recent:
                self._recent.move_to_end(text)
                known[text] = self._recent[text]
            elif refusal := self._refusal(text.reading):
                known[text] = refusal
            else:
                missing.setdefault(text.reading, []).append(text)
        for batch in _batches(missing):
            for text, result in zip(batch, isolate(batch, self._read, name="encode"), strict=True):
                known[text] = result
                if isinstance(result, Embedding):
                    self._recent[text] = result
        while len(self._recent) > self._capacity:
            self._recent.popitem(last=False)
        return known

    def _refusal(self, reading: Reading) -> GenerationFailed | None:
        most = self._most_skipped
        if (reading.clip_skip or 0) <= most:
            return None
        return GenerationFailed(
            f"clip_skip must be at most {most} with this model, whose text encoder has no more layers to leave out, "
            f"not {reading.clip_skip}."
        )

    def _read(self, texts: Sequence[Text]) -> list[Embedding]:
        """One call of each text encoder for all windows of all texts, which are read alike."""
        reading = texts[0].reading
        cuts = self._cutter.cut([text.prompt for text in texts], reading.syntax)
        contexts, pooled = self._encode([window for cut in cuts for window in cut.windows], reading)
        counts = [len(cut.windows) for cut in cuts]
        vectors = [None] * len(cuts) if pooled is None else [each[0] for each in pooled.split(counts)]
        return [
            Embedding(context.flatten(0, 1), vector, cut.tokens_read, cut.unread)
            for context, vector, cut in zip(contexts.split(counts), vectors, cuts, strict=True)
        ]

    def _encode(self, windows: Sequence[Window], reading: Reading) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context [windows, context_length, width] and pooled text [windows, projection], if there is one."""
        read = []
        for encoder in self._encoders:
            with encoder.adapted(reading.loras, self._loras):
                read.append(
                    encoder.read(windows, clip_skip=reading.clip_skip, length=self._window, device=self._device)
                )
        pooled = read[-1][1]
        context = torch.cat([context for context, _ in read], dim=-1)
        return context.to(self._dtype), None if pooled is None else pooled.to(self._dtype)


def _all_or_error(results: Sequence[Embedding | EngineError]) -> list[Embedding] | EngineError:
    error = next((result for result in results if isinstance(result, EngineError)), None)
    return error or [result for result in results if isinstance(result, Embedding)]


def _batches(texts: Mapping[Reading, list[Text]]) -> Iterator[list[Text]]:
    """What may be encoded together, by how it is read."""
    for reading, alike in texts.items():
        yield from [[text] for text in alike] if reading.alone else [alike]


def weighted(context: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Float32 [windows, length, width]: each token's states times its weight, [windows, length], and each window as a
    whole so that its mean stays what it was: stable-diffusion-webui's emphasis "Original".

    Where a mean is nothing but rounding there is none to restore.
    """
    states = context.float()
    scaled = states * weights[..., None]
    before, after = (each.mean((1, 2), keepdim=True) for each in (states, scaled))
    is_mean = after.abs() > MEAN_IS_ROUNDING * scaled.abs().mean((1, 2), keepdim=True)
    return scaled * torch.where(is_mean, before / after, 1.0)


def equally_long(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both contexts, [tokens, width], repeated until they have equally many tokens.

    Cross-attention is a mean weighted by softmax, and the keys have no position: a context repeated as a whole gives
    what the context alone gives. Filled up with windows of the empty prompt, it would not.
    """
    tokens = math.lcm(len(a), len(b))
    return a.repeat(tokens // len(a), 1), b.repeat(tokens // len(b), 1)
