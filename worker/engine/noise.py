"""Chance. Each sample owns a generator on the CPU, so that its noise is the same on any device and in any company."""

from __future__ import annotations

import torch


def generator_for(seed: int) -> torch.Generator:
    """A generator of its own for one sample. `seed` is 0 to 2**64 - 1."""
    return torch.Generator().manual_seed(seed)


def initial_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Standard normal latents, float32 on `device`.

    This is the generator's first draw; the solver's own noise follows. StableDiffusionPipeline draws in that order.
    """
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
