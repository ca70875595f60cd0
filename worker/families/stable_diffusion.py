"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022): one text encoder, one UNet, one pass.

Knows how a request becomes rows for the UNet. Knows no seats, no batches and no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from worker.engine.errors import EngineError, engine_error
from worker.engine.family import Asked, Prepared
from worker.engine.request import Request
from worker.engine.rows import Rows
from worker.families.adapters import Chosen
from worker.families.latent_diffusion import CONTEXT, LatentDiffusion
from worker.families.text import Embedding, PromptReader, Reading, Text, TextEncoder, equally_long
from worker.models.bundle import Bundle


class StableDiffusion(LatentDiffusion):
    """A Family (worker/engine/family.py)."""

    @cached_property
    def _reader(self) -> PromptReader:
        return PromptReader(self._bundle, self._encoders(self._bundle), self._adapters.of_text)

    def _usual_rows(self, usual: Request) -> Rows:
        return Rows(self._row(self._reader.empty, self._reader.empty.context) | self._shared(usual))

    def prepare(self, asked: Sequence[Asked]) -> list[Prepared | EngineError]:
        chosen = [self._chosen(each.request) for each in asked]
        texts = [
            self._texts(each.request, own.texts) if isinstance(own, Chosen) else []
            for each, own in zip(asked, chosen, strict=True)
        ]
        return [self._prepared(*each) for each in zip(asked, chosen, self._reader.read(texts), strict=True)]

    def _chosen(self, request: Request) -> Chosen | EngineError:
        try:
            return self._adapters.chosen(request)
        except Exception as error:
            return engine_error(error, stage="adapters")

    def _prepared(
        self, asked: Asked, chosen: Chosen | EngineError, embeddings: list[Embedding] | EngineError
    ) -> Prepared | EngineError:
        if isinstance(chosen, EngineError):
            return chosen
        if isinstance(embeddings, EngineError):
            return embeddings
        request = asked.request
        try:
            only = self._pass(asked, replace(self._rows(request, embeddings), some=chosen.some))
            drawn_with = self._controlnets.drawn_with(request)
            drawn_with |= {"lora_files": chosen.sha256} if chosen.sha256 else {}
            drawn_with |= self._embedding_files(request)
        except Exception as error:
            return engine_error(error, stage="prepare")
        return Prepared([only], self._warnings(asked, embeddings), drawn_with)

    def _embedding_files(self, request: Request) -> dict[str, Any]:
        named = self._reader.words_in(self._prompts(request))
        return {"embedding_files": {name: self._bundle.embeddings[name].sha256 for name in named}} if named else {}

    def _warnings(self, asked: Asked, embeddings: Sequence[Embedding]) -> list[str]:
        request = asked.request
        return [
            *self._reader.unread(embeddings),
            *self._idle(asked),
            *self._inputs.warnings(request, asked.inputs),
            *self._reader.misread(self._prompts(request), request.prompt_syntax),
        ]

    def _of_unconditional(self, request: Request) -> dict[str, Any]:
        return {"The negative prompt": request.negative_prompt}

    def _prompts(self, request: Request) -> tuple[str, ...]:
        """Those that matter to this request."""
        return (request.prompt, request.negative_prompt or "") if self._is_guided(request) else (request.prompt,)

    def _texts(self, request: Request, loras: tuple[tuple[str, float], ...]) -> list[Text]:
        """The same, and how each is read. As in diffusers' pipelines, clip_skip does not touch the negative prompt."""
        prompt, *negative = self._prompts(request)
        plain = Reading(alone=request.reproducible, syntax=request.prompt_syntax, loras=loras)
        return [Text(prompt, replace(plain, clip_skip=request.clip_skip)), *(Text(each, plain) for each in negative)]

    def _rows(self, request: Request, embeddings: Sequence[Embedding]) -> Rows:
        """Contexts of a guided request are equally long. Their length, a multiple of the model's, is part of the
        lane."""
        prompt, *negative = embeddings
        shared = self._shared(request)
        if not negative:
            return Rows(self._row(prompt, prompt.context) | shared)
        other = self._negative(request, prompt, negative[0])
        conditional, unconditional = equally_long(prompt.context, other.context)
        return Rows(self._row(prompt, conditional) | shared, self._row(other, unconditional) | shared)

    def _negative(self, request: Request, prompt: Embedding, negative: Embedding) -> Embedding:
        """What the unconditional row reads."""
        return negative

    def _row(self, read: Embedding, context: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a row has of its text, by the UNet's names. `context` is the embedding's own, maybe repeated."""
        return {CONTEXT: context}

    def _shared(self, request: Request) -> dict[str, torch.Tensor]:
        """What both rows of a request have, by the UNet's names."""
        return {}

    def _encoders(self, bundle: Bundle) -> list[TextEncoder]:
        return [TextEncoder("text_encoder", bundle)]
