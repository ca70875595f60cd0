"""Stable Diffusion XL (Podell et al. 2023): two text encoders, and a UNet that also reads the prompt as one vector, and
the sizes."""

from __future__ import annotations

import torch

from worker.engine.request import Request
from worker.engine.transfer import to_device
from worker.families.latent_diffusion import CONTEXT
from worker.families.stable_diffusion import StableDiffusion
from worker.families.text import Embedding, TextEncoder
from worker.models.bundle import Bundle


class StableDiffusionXL(StableDiffusion):
    """A Family (worker/engine/family.py)."""

    def _negative(self, request: Request, prompt: Embedding, negative: Embedding) -> Embedding:
        zeros = self._bundle.force_zeros_for_empty_prompt and request.negative_prompt is None
        return prompt.zeros() if zeros else negative

    def _row(self, read: Embedding, context: torch.Tensor) -> dict[str, torch.Tensor]:
        assert read.pooled is not None, "This is a bug: SDXL reads a prompt as one vector as well."
        return {CONTEXT: context, "text_embeds": read.pooled}

    def _shared(self, request: Request) -> dict[str, torch.Tensor]:
        """The six numbers of section 2.2 of the paper. By themselves they say: neither enlarged nor cropped."""
        own = request.height, request.width
        original, target = request.original_size or own, request.target_size or own
        sizes = torch.tensor((*original, *(request.crops_coords_top_left or (0, 0)), *target), dtype=self._bundle.dtype)
        return {"time_ids": to_device(sizes, self.device)}

    def _encoders(self, bundle: Bundle) -> list[TextEncoder]:
        """Both are read one layer before their last (section 2.1 of the paper)."""
        return [TextEncoder(part, bundle, before_last=True) for part in ("text_encoder", "text_encoder_2")]
