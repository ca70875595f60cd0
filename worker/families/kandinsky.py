"""Kandinsky 2.2 (Razzhigaev et al. 2023): a prior, and a decoder that reads an image embedding and no text.

Knows how the decoder reads an embedding, and what it guides away from. Refuses to know where embeddings come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch

from worker.engine.errors import EngineError, engine_error
from worker.engine.family import Asked, Inputs, Prepared
from worker.engine.request import Request
from worker.engine.rows import Rows
from worker.engine.solver import Schedule
from worker.families.autoencoder import Movq
from worker.families.from_points import FromPoints, Tensors
from worker.families.latent_diffusion import LatentDiffusion
from worker.families.prior import Prior
from worker.models.black import BLACK
from worker.models.bundle import Bundle

IMAGE = "image_embeds"
"""What the UNet calls the embedding."""


class Kandinsky(LatentDiffusion):
    """A Family (worker/engine/family.py)."""

    def __init__(self, bundle: Bundle) -> None:
        self._black: torch.Tensor = bundle.part(BLACK)
        super().__init__(bundle)
        self.later_bytes += sum(part.nbytes for part in bundle.seldom.values())
        self.autoencoder = Movq(bundle.vae, pixels_per_latent=bundle.vae_scale_factor, device=bundle.device)
        self._points = FromPoints(
            bundle,
            prior=Prior(bundle),
            dimensions=len(self._black),
            condition=self._condition,
            pictures=self._inputs,
            reads_negative=True,
        )
        self.prior, self.image_encoder = self._points.prior, self._points.image_encoder

    def schedules(self, request: Request) -> list[Schedule]:
        [decoder] = super().schedules(request)
        return self._points.schedules(request, decoder)

    def inputs(self, request: Request) -> Inputs:
        return self._points.inputs(request)

    def bring(self, request: Request) -> Sequence[Future[Any]]:
        return self._points.bring(request)

    def close(self, request: Request) -> None:
        self._points.close(request)

    def prepare(self, asked: Sequence[Asked]) -> list[Prepared | EngineError]:
        return self._points.around(asked, [self._decoder(each) for each in asked])

    def _decoder(self, asked: Asked) -> Prepared | EngineError:
        request, place = asked.request, self._place
        try:
            rows = Rows(place, place) if request.is_guided else Rows(place)
            decoder = self._pass(Asked(request, asked.solvers[-1:]), rows)
            return Prepared([decoder], self._idle(asked))
        except Exception as error:
            return engine_error(error, stage="prepare")

    def _usual_rows(self, usual: Request) -> Rows:
        return Rows(self._place)

    @property
    def _place(self) -> dict[str, torch.Tensor]:
        """What stands there is known when a picture begins."""
        return {IMAGE: torch.zeros_like(self._black)}

    def _condition(
        self, embedding: torch.Tensor, away: torch.Tensor | None, request: Request, generator: torch.Generator
    ) -> tuple[Tensors, Tensors]:
        """Away from what the prior makes of the negative prompt; without one, from a black picture."""
        return {IMAGE: embedding}, {IMAGE: self._black if away is None else away}
