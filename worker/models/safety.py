"""A model's own safety checker in memory: which finished pictures it flags.

The same verdict as diffusers' StableDiffusionSafetyChecker gives inside the stock pipelines, and nothing else of it:
that one paints flagged pictures black, and waits for the device. Knows no requests, and not what becomes of a picture.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from worker.models.preparation import Preparation

NEAR_SPECIAL = 0.01
"""Added to every score of a picture that has something of a special concept: it is then flagged sooner."""


class SafetyChecker:
    """`model` is diffusers' module, called part by part. For one thread at a time."""

    def __init__(self, model: Any, preparation: Preparation) -> None:
        self.model = model
        self.preparation = preparation

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """How far each of `pictures`, uint8 [B, H, W, 3] on the device, is into what is not to be shown: float32 [B].

        It is flagged where that is above 0. Not a number where the network's type is too small for it.
        """
        prepared = self.preparation(pictures)
        embeds = self.model.visual_projection(self.model.vision_model(prepared.to(self.model.dtype))[1])
        special = self._scores(embeds, self.model.special_care_embeds, self.model.special_care_embeds_weights)
        concepts = self._scores(embeds, self.model.concept_embeds, self.model.concept_embeds_weights)
        is_special = (_rounded(special) > 0).any(1, keepdim=True)
        return _rounded(concepts + NEAR_SPECIAL * is_special).amax(1)

    @property
    def weights_bytes(self) -> float:
        return float(sum(each.nbytes for each in self.model.parameters()))

    def _scores(self, embeds: torch.Tensor, concepts: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
        """Cosines beyond their thresholds, float32 [B, concepts]."""
        cosines = F.normalize(embeds) @ F.normalize(concepts).T
        return cosines.float() - thresholds.float()


def _rounded(scores: torch.Tensor) -> torch.Tensor:
    """To three digits, as Python's round does with numpy's float32: a score of 0.0005 and less is 0."""
    return (scores * 1000).round()
