"""What stays of a picture while the rest of it is repainted: inpainting with a network that knows of no mask.

After each update the latents that stay are put back, as noisy as the others are by then, and at the end without noise:
StableDiffusionInpaintPipeline in diffusers with a UNet of four channels; Lugmayr et al. 2022, "RePaint", section 4.1.
Knows tensors only: how noisy the others are is a scheduler's affair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NO_NOISE = (1.0, 0.0)
"""How latents z0 and noise n are added up, a z0 + s n, for a picture as it is."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Keep:
    """Of one sample, on the device: the picture's `latents` and the `noise` it is always mixed with, float32 [C, h, w];
    and where it is `repainted`, bool [1, h, w]."""

    latents: torch.Tensor
    noise: torch.Tensor
    repainted: torch.Tensor


def noised(
    latents: torch.Tensor, noise: torch.Tensor, a: torch.Tensor | float, s: torch.Tensor | float
) -> torch.Tensor:
    return a * latents + s * noise
