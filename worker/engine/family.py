"""What the engine needs of a family of models. Protocols only: the families are in worker/families."""

from __future__ import annotations

from typing import Protocol

import torch


class Autoencoder(Protocol):
    """Between pixels and latents, on the model's device. Images are [B, 3, H, W] of -1 to 1."""

    pixels_per_latent: int
    """Along each side of a picture."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Float32 latents [B, C, h, w] of images from the host, without chance."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images of float32 latents [B, C, h, w]. Not finite where the network's type is too small for them."""
        ...

    def in_float32(self) -> Autoencoder: ...

    def picture_bytes(self, height: int, width: int) -> float:
        """That decoding one picture needs beside the weights; sides are in latents."""
        ...
