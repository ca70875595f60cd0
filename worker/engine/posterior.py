"""What an autoencoder makes of pictures: a normal distribution of latents, of which every sample draws its own.

Knows tensors and generators. Knows no autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from worker.engine.noise import normal_noise
from worker.engine.transfer import to_device


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Posterior:
    """q(z | picture) of Kingma and Welling (2014): `mean` and standard deviation `std`, float32 on the device, of
    [C, h, w] or a batch of them. `std` is None for an autoencoder that leaves nothing to chance, such as a tiny one."""

    mean: torch.Tensor
    std: torch.Tensor | None = None
    is_tiled: bool = False
    """It was encoded in tiles."""

    def __getitem__(self, k: int) -> Posterior:
        return replace(self, mean=self.mean[k], std=None if self.std is None else self.std[k])

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """Latents, float32 [C, h, w] on the device. One draw, on the host as all of a sample's, if there is chance."""
        if self.std is None:
            return self.mean
        channels, height, width = self.mean.shape
        noise = normal_noise((channels, height, width), generator)
        return self.mean + self.std * to_device(noise, self.mean.device)
