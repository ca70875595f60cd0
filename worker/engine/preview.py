"""What a picture looks like while it is denoised: x0, the model's estimate of the finished latents, as a small picture.

A VAE's decoder costs as much as several steps. But latents are nearly a picture already: one linear map, fitted once to
what the model's own VAE decodes, gives four pixels of each latent for the price of a small matrix product.

Knows latents and pixels. Refuses to know who looks, and how x0 was found.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from worker.engine.family import Autoencoder

PATCH = 2
"""Pixels of a preview along each side of a latent, unless the picture has fewer. On the starter the error falls from
0.18 (one pixel) to 0.13 of the range -1 to 1; four pixels give 0.12 and a file four times as large."""

PICTURES, SIDE = 8, 12
"""Pictures the map is fitted to, and their side in latents: 1,152 latents for some ten unknowns each."""

RIDGE = 1e-3
"""Keeps the map small along directions of the latents that synthetic pictures hardly show."""


def to_pixels(factors: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] latents to uint8 [B, patch x h, patch x w, 3], by factors for patches of that side."""
    colours = (_with_one(x0.movedim(1, -1)) @ factors).movedim(-1, 1)
    patch = math.isqrt(factors.shape[1] // 3)
    images = functional.pixel_shuffle(colours, patch).nan_to_num().mul(0.5).add(0.5).clamp(0, 1)
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def fit(autoencoder: Autoencoder, *, side: int) -> torch.Tensor:
    """Least squares from latents to the pixels that are decoded from them, float32 [C + 1, 3 x patch x patch].

    The latents are those of synthetic pictures of `side` pixels, so that no data is needed. They leave out what the
    model will draw, but a VAE codes colours and edges everywhere alike.
    """
    encoded = autoencoder.encode(synthetic_pictures(PICTURES, side)).mean
    # Apple's devices have no float64.
    decoded = autoencoder.decode(encoded).cpu().double()
    patch = min(PATCH, autoencoder.pixels_per_latent)
    small = functional.adaptive_avg_pool2d(decoded, [patch * size for size in encoded.shape[-2:]])
    pixels = functional.pixel_unshuffle(small, patch).movedim(1, -1).flatten(0, 2)
    latents = encoded.cpu().double().movedim(1, -1).flatten(0, 2)
    x = _with_one(latents)
    usable = pixels.isfinite().all(1) & x.isfinite().all(1)
    x, pixels = x[usable], pixels[usable]
    ridge = RIDGE * max(1, len(x)) * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(x.T @ x + ridge, x.T @ pixels).float()


def synthetic_pictures(count: int, side: int) -> torch.Tensor:
    """Always the same pictures, [count, 3, side, side] of -1 to 1: clouds of every scale with plain boxes on them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16):
        cloud = torch.randn(count, 3, cells, cells, generator=generator) * 2 / cells**0.5
        images += functional.interpolate(cloud, size=side, mode="bicubic")
    images = images.tanh()
    for image in images[::2]:
        for _ in range(8):
            (x, y), (w, h) = torch.rand(2, 2, generator=generator).mul(side * 0.6).int().tolist()
            image[:, y : y + h, x : x + w] = torch.rand(3, 1, 1, generator=generator) * 2 - 1
    return images


def _with_one(features: torch.Tensor) -> torch.Tensor:
    """[..., n] to [..., n + 1], for the constant term."""
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
