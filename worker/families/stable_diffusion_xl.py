"""Stable Diffusion XL (Podell et al. 2023): two text encoders, and a UNet that also reads the prompt as one vector, and
the sizes."""

from __future__ import annotations

import torch

from worker.engine.request import Request
from worker.engine.transfer import to_device
from worker.families.stable_diffusion import CONTEXT, StableDiffusion
from worker.families.text import Embedding, Windows


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

    def _encode(self, windows: Windows) -> tuple[torch.Tensor, torch.Tensor | None]:
        bundle = self._bundle
        first = self._run(bundle.tokenizer, bundle.text_encoder, windows, output_hidden_states=True)
        second = self._run(bundle.tokenizer_2, bundle.text_encoder_2, windows, output_hidden_states=True)
        # Both encoders are read one layer before their last, and side by side (section 2.1 of the paper).
        context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return context.to(bundle.dtype), second.text_embeds.to(bundle.dtype)
