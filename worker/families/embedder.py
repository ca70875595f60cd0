"""Embeddings asked for by themselves, of a model that draws from them: of texts and pictures in the space that both
share, and where the prior takes a text to be among pictures.

Knows the prior and the image encoder of a model. Refuses to know questions, and when it is its turn: whoever calls
hands in what is entered for each forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from worker.engine.errors import EngineError, GenerationFailed
from worker.engine.noise import generator_for, normal_noise
from worker.engine.stepping import arguments, scaled
from worker.engine.transfer import to_device
from worker.families.from_points import NO_ENCODER
from worker.families.image_encoder import ImageEncoder
from worker.families.prior import Prior
from worker.families.text import Embedding
from worker.models.bundle import Bundle

Turn = Callable[[], AbstractContextManager[Any]]

BORROWER = "embedder"
"""For whom an image encoder is in memory that seldom is: one question at a time."""


@runtime_checkable
class FromVectors(Protocol):
    """A family that draws from embeddings, and what it has them from."""

    @property
    def prior(self) -> Prior | None: ...
    @property
    def image_encoder(self) -> ImageEncoder | None: ...


def embedder_of(bundle: Bundle, family: object) -> Embedder | None:
    """What answers for the model where embeddings are asked for by themselves, with the networks, texts and vectors
    that its family has; None for one without a prior."""
    if not isinstance(family, FromVectors) or family.prior is None:
        return None
    return Embedder(bundle, family.prior, family.image_encoder)


class Embedder:
    """Of a model with a prior. One thread at a time; vectors are float32 [D] on the device."""

    def __init__(self, bundle: Bundle, prior: Prior, encoder: ImageEncoder | None) -> None:
        self.sha256, self.device, self.dimensions = bundle.sha256, bundle.device, prior.dimensions
        self._prior = prior
        self._encoder = encoder
        self._guidance = prior.guidance_scale
        self._schedule = prior.schedule(prior.num_inference_steps)

    def texts(self, texts: Sequence[str], turn: Turn) -> list[Embedding]:
        """As the text encoder in front of the prior reads them. Raises EngineError."""
        with turn():
            [read] = self._prior.read([list(texts)], alone=[False])
        if isinstance(read, EngineError):
            raise read
        return read

    def pictures(self, pictures: Mapping[str, np.ndarray], turn: Turn) -> dict[str, torch.Tensor]:
        """By their names. Raises EngineError."""
        if not pictures:
            return {}
        if self._encoder is None:
            raise GenerationFailed(NO_ENCODER)
        found = self._seen(self._encoder, pictures, turn)
        vectors = {name: vector for name, vector in found.items() if not isinstance(vector, EngineError)}
        for error in found.values():
            if isinstance(error, EngineError):
                raise error
        return vectors

    def _seen(
        self, encoder: ImageEncoder, pictures: Mapping[str, np.ndarray], turn: Turn
    ) -> dict[str, torch.Tensor | EngineError]:
        """With the encoder in memory, also where it seldom is."""
        try:
            for brought in encoder.bring(BORROWER, pictures):
                brought.result()
            with turn():
                return encoder.read(pictures)
        finally:
            encoder.close(BORROWER)

    def among_pictures(self, texts: Sequence[Embedding], seed: int, turn: Turn) -> list[torch.Tensor]:
        """Where the prior takes each text to be, all of them from the noise of one seed: what a drawing of the text
        with the usual steps and guidance begins with. One forward of all texts for each step."""
        walks = [_Walk(self._schedule.prepared(), seed, self) for _ in texts]
        rows, guided = self._prior.rows(texts, guidance_scale=self._guidance)
        for i, t in enumerate(walks[0].scheduler.timesteps):
            with turn():
                x = torch.stack([scaled(walk.scheduler, walk.x, t) for walk in walks])
                both = torch.cat([x, x]) if guided else x
                timestep = torch.full((len(both),), float(t), device=self.device)
                said = self._prior.network(both, timestep, rows).float()
                c, u = said.chunk(2) if guided else (said, said)
                for walk, m in zip(walks, u + (self._guidance if guided else 1.0) * (c - u), strict=True):
                    walk.step(m, i, self._schedule.options)
        return [self._prior.embeddings(walk.x)[0] for walk in walks]


class _Walk:
    """One text on the prior's way."""

    def __init__(self, scheduler: Any, seed: int, of: Embedder) -> None:
        self.scheduler = scheduler
        self._generator = generator_for(seed)
        noise = normal_noise((of.dimensions, 1, 1), self._generator) * float(scheduler.init_noise_sigma)
        self.x = to_device(noise, of.device)

    def step(self, m: torch.Tensor, i: int, options: Mapping[str, Any]) -> None:
        given = arguments(self.scheduler, options, i, self._generator)
        self.x = self.scheduler.step(m[None], self.scheduler.timesteps[i], self.x[None], **given)[0][0]
