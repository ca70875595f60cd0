"""Stable Diffusion XL (Podell et al. 2023): two text encoders, and a UNet that also reads the prompt as one vector, and
the sizes."""

from __future__ import annotations

import torch

from worker.engine.request import Request
from worker.engine.transfer import to_device
from worker.families.stable_diffusion import CONTEXT, StableDiffusion
from worker.families.text import Embedding, TextEncoder
from worker.models.bundle import Bundle


class StableDiffusionXL(StableDiffusion):
    """A Family (worker/engine/family.py)."""

    def _negative(self, request: Request, prompt: Embedding, negative: Embedding) -> Embedding:
        zeros = self._bundle.force_zeros_for_empty_prompt and not request.negative_prompt
        return prompt.zeros() if zeros else negative

    def _row(self, read: Embedding, context: torch.Tensor) -> dict[str, torch.Tensor]:
        assert read.pooled is not None, "This is a bug: SDXL reads a prompt as one vector as well."
        return {CONTEXT: context, "text_embeds": read.pooled}

    def _shared(self, height: int, width: int, guidance_scale: float) -> dict[str, torch.Tensor]:
        """The picture is neither enlarged nor cropped: its original size, the corner of the crop, and its size."""
        sizes = torch.tensor((height, width, 0, 0, height, width), dtype=self._bundle.dtype)
        return {"time_ids": to_device(sizes, self.device)}

    def _encoders(self, bundle: Bundle) -> list[TextEncoder]:
        """Both are read one layer before their last (section 2.1 of the paper)."""
        first = TextEncoder(bundle.tokenizer, bundle.text_encoder, before_last=True)
        return [first, TextEncoder(bundle.tokenizer_2, bundle.text_encoder_2, before_last=True)]
