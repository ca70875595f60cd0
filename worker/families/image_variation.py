"""Stable Diffusion that reads the CLIP embedding of a picture where others read a text
(StableDiffusionImageVariationPipeline; Pinkney 2022, "Stable Diffusion Image Variations").

Knows that its context is one token. Refuses to know where embeddings come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engine.errors import EngineError, engine_error
from worker.engine.family import Asked, Inputs, Prepared
from worker.engine.request import Request
from worker.engine.rows import Rows
from worker.engine.solver import Schedule
from worker.families.from_points import FromPoints, Tensors
from worker.families.latent_diffusion import CONTEXT, LatentDiffusion
from worker.models.bundle import Bundle

UNREAD = "The {} had no effect: this model draws from a picture and reads no text."


class ImageVariation(LatentDiffusion):
    """A Family (worker/engine/family.py)."""

    def __init__(self, bundle: Bundle) -> None:
        self._dimensions = bundle.embedding_dimensions or 0
        super().__init__(bundle)
        self._points = FromPoints(
            bundle, prior=None, dimensions=self._dimensions, condition=self._condition, pictures=self._inputs
        )
        self.prior, self.image_encoder = self._points.prior, self._points.image_encoder

    def schedules(self, request: Request) -> list[Schedule]:
        [decoder] = super().schedules(request)
        return self._points.schedules(request, decoder)

    def inputs(self, request: Request) -> Inputs:
        return self._points.inputs(request)

    def prepare(self, asked: Sequence[Asked]) -> list[Prepared | EngineError]:
        return self._points.around(asked, [self._decoder(each) for each in asked])

    def _decoder(self, asked: Asked) -> Prepared | EngineError:
        request, blank = asked.request, self._blank
        # By the prompt the best of several are chosen, unless something else is expected.
        is_judged_by = request.is_judged and not request.expect
        said = {"prompt": "" if is_judged_by else request.prompt, "negative prompt": request.negative_prompt}
        warnings = [UNREAD.format(what) for what, text in said.items() if text] + self._idle(asked)
        try:
            rows = Rows(blank, blank) if request.is_guided else Rows(blank)
            decoder = self._pass(Asked(request, asked.solvers[-1:]), rows)
        except Exception as error:
            return engine_error(error, stage="prepare")
        return Prepared([decoder], warnings)

    def _usual_rows(self, usual: Request) -> Rows:
        return Rows(self._blank)

    @property
    def _blank(self) -> dict[str, torch.Tensor]:
        """The place of the one token: what stands there is known when a picture begins. Also what the unconditional
        row reads."""
        return {CONTEXT: torch.zeros(1, self._dimensions, dtype=self._bundle.dtype, device=self.device)}

    def _condition(
        self, embedding: torch.Tensor, away: torch.Tensor | None, request: Request, generator: torch.Generator
    ) -> tuple[Tensors, Tensors]:
        return {CONTEXT: embedding[None]}, {}
