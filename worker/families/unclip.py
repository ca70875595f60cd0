"""Stable Diffusion behind CLIP embeddings of pictures (Ramesh et al. 2022): a decoder, with the prior before it or not.

Knows how a decoder reads an embedding: noised, with a number that says how much, as the UNet's class label. Refuses to
know where embeddings come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding

from worker.engine.errors import EngineError, GenerationFailed
from worker.engine.family import Asked, Inputs, Prepared
from worker.engine.keep import noised
from worker.engine.noise import normal_noise
from worker.engine.request import Request
from worker.engine.solver import Schedule
from worker.engine.transfer import to_device
from worker.families.from_points import FromPoints, Tensors
from worker.families.prior import Prior
from worker.families.stable_diffusion import StableDiffusion
from worker.models.bundle import Bundle

LABEL = "class_labels"
"""What the UNet calls the embedding, with as many numbers that say how noisy it is."""


class StableUnCLIP(StableDiffusion):
    """A Family (worker/engine/family.py)."""

    def __init__(self, bundle: Bundle) -> None:
        self._noise = EmbeddingNoise(
            bundle.part("image_normalizer"), bundle.part("image_noising_scheduler"), device=bundle.device
        )
        super().__init__(bundle)
        prior, dimensions = prior_of(bundle), self._noise.dimensions
        self._points = FromPoints(
            bundle, prior=prior, dimensions=dimensions, condition=self._condition, pictures=self._inputs
        )
        self.prior, self.image_encoder = self._points.prior, self._points.image_encoder

    def schedules(self, request: Request) -> list[Schedule]:
        [decoder] = super().schedules(request)
        return self._points.schedules(request, decoder)

    def inputs(self, request: Request) -> Inputs:
        return self._points.inputs(request)

    def prepare(self, asked: Sequence[Asked]) -> list[Prepared | EngineError]:
        decoders = super().prepare([Asked(each.request, each.solvers[-1:]) for each in asked])
        return self._points.around(asked, decoders)

    def _shared(self, request: Request) -> dict[str, torch.Tensor]:
        """Its place: what stands there is known when a picture begins."""
        return {LABEL: torch.zeros(2 * self._noise.dimensions, dtype=self._bundle.dtype, device=self.device)}

    def _condition(
        self, embedding: torch.Tensor, away: torch.Tensor | None, request: Request, generator: torch.Generator
    ) -> tuple[Tensors, Tensors]:
        label = self._noise.label(embedding, request.noise_level, generator)
        return {LABEL: label}, {LABEL: torch.zeros_like(label)}


def prior_of(bundle: Bundle) -> Prior | None:
    """The prior of a StableUnCLIP folder that has one."""
    if "prior_text_encoder" not in bundle.others:
        return None
    return Prior(bundle)


class EmbeddingNoise:
    """How embeddings are made noisy before a decoder reads them: as StableUnCLIPPipeline.noise_image_embeddings has it,
    after section 3.2 of Ho et al. 2022, "Cascaded Diffusion Models"."""

    def __init__(self, normalizer: Any, scheduler: Any, *, device: torch.device) -> None:
        self.dimensions = int(normalizer.config.embedding_dim)
        self._mean, self._std = normalizer.mean[0].float(), normalizer.std[0].float()
        self._scheduler = scheduler
        self._device = device

    def label(self, embedding: torch.Tensor, level: int, generator: torch.Generator) -> torch.Tensor:
        """Float32 [2 D] of an embedding [D], both on the device: noised, then the sines and cosines of the level. One
        draw, also at a level of 0. Raises GenerationFailed for a level that the model does not know."""
        most = int(self._scheduler.config.num_train_timesteps) - 1
        if level > most:
            raise GenerationFailed(f"noise_level must be at most {most} with this model, not {level}.")
        noise = to_device(normal_noise((self.dimensions, 1, 1), generator).flatten(), self._device)
        a, s = self._levels(level)
        embedding = noised((embedding - self._mean) / self._std, noise, a, s) * self._std + self._mean
        said = get_timestep_embedding(
            torch.tensor([level]), self.dimensions, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return torch.cat([embedding, to_device(said[0], self._device)])

    def _levels(self, level: int) -> tuple[float, float]:
        """How much of an embedding and of noise there is, as the scheduler itself adds them up."""
        signal, noise = torch.eye(2)[:, :, None]
        a, s = self._scheduler.add_noise(signal, noise, torch.tensor([level])).flatten().tolist()
        return a, s
