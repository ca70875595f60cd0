"""Chance. Each sample owns a generator on the CPU, so that its noise is the same on any device and in any company."""

from __future__ import annotations

import torch

from worker.engine.rows import LatentShape


def generator_for(seed: int) -> torch.Generator:
    """A generator of its own for one sample. `seed` is 0 to 2**64 - 1."""
    return torch.Generator().manual_seed(seed)


def normal_noise(latent_shape: LatentShape, generator: torch.Generator) -> torch.Tensor:
    """Standard normal latents, float32 [C, h, w] on the CPU.

    The first draw makes the initial latents, each later one is for a step of a stochastic solver, in their order:
    StableDiffusionPipeline draws the same numbers from the same seed.
    """
    return torch.randn(latent_shape, generator=generator, dtype=torch.float32)
