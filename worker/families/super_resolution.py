"""Karlo's networks that enlarge a picture while they denoise it: diffusers' UNet2DModel as the engine's denoiser.

Knows that the small picture, enlarged, enters as channels behind the latents. Knows no prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from worker.engine.rows import LatentShape
from worker.models.need import row_bytes

SMALL = "image_upscaled"
"""The row tensor of the small picture, [3, h, w] in the size of the large one."""


class SuperResolution(torch.nn.Module):
    """A Denoiser (worker/engine/rows.py)."""

    def __init__(self, unet: Any, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.unet = unet
        self.dtype = dtype
        self.device = device

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        output: torch.Tensor = self.unet(torch.cat([x.to(self.dtype), rows[SMALL]], 1), t, return_dict=False)[0]
        return output

    def in_float32(self) -> SuperResolution:
        """Itself, or a copy that takes twice the memory."""
        if self.dtype == torch.float32:
            return self
        return SuperResolution(copy.deepcopy(self.unet).float(), dtype=torch.float32, device=self.device)

    def row_bytes(self, latent_shape: LatentShape) -> float:
        return row_bytes(self.unet.config, *latent_shape[1:], self.dtype.itemsize)


def enlarged(small: torch.Tensor, *, side: int) -> torch.Tensor:
    """[3, side, side] of a picture [3, h, w], as UnCLIPPipeline enlarges it."""
    size = [side, side]
    large: torch.Tensor = functional.interpolate(
        small.clamp(-1, 1)[None], size=size, mode="bicubic", align_corners=False, antialias=True
    )
    return large[0]
