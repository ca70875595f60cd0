"""From latents to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from worker.engine.errors import EngineError, NumericalError
from worker.engine.sample import Sample
from worker.models.bundle import Bundle

AT_ONCE = 4
"""Samples in one call of the VAE. At 512 pixels its activations already take some 0.9 GiB a picture in bfloat16."""


def ready_to_decode(samples: Sequence[Sample]) -> list[Sample]:
    """The samples to decode next: the oldest denoised one, and up to three others of its lane."""
    denoised = [sample for sample in samples if sample.is_denoised]
    if not denoised:
        return []
    # Kernels differ with the size of the batch, and so would the pixels.
    at_once = 1 if denoised[0].job.request.reproducible else AT_ONCE
    return [sample for sample in denoised if sample.lane is denoised[0].lane][:at_once]


def decode(bundle: Bundle, samples: Sequence[Sample]) -> list[np.ndarray | EngineError]:
    """A picture, uint8 [H, W, 3], for each sample of one lane, or NumericalError where the VAE overflowed.

    Like StableDiffusionPipeline, uses the VAE's scaling_factor and no shift_factor: this family has none. The VAE may
    be of another type than the UNet: SDXL's is.
    """
    latents = torch.stack([sample.latents for sample in samples]).to(bundle.vae.dtype)
    images = bundle.vae.decode(latents / bundle.vae.config.scaling_factor, return_dict=False)[0]
    # Before the conversion to uint8, which would turn NaN into a black picture. Honest black pictures are finite.
    finite = torch.isfinite(images).flatten(1).all(1).tolist()
    return [
        picture if is_finite else NumericalError("The decoded picture was not a number; try another seed or scheduler.")
        for picture, is_finite in zip(_to_pixels(images), finite, strict=True)
    ]


def _to_pixels(images: torch.Tensor) -> np.ndarray:
    """[B, 3, H, W] of -1 to 1, to uint8 [B, H, W, 3]. In the order of VaeImageProcessor, so that pictures are equal."""
    images = (images * 0.5 + 0.5).clamp(0, 1).float()
    return (images * 255).round().nan_to_num().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
