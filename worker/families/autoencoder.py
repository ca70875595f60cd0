"""diffusers' autoencoders between pixels and latents, and the only place that calls them.

Knows how latents are scaled. Knows no batches and no memory.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from worker.engine.posterior import Posterior
from worker.engine.transfer import to_device
from worker.models.need import decode_bytes


class Pixels:
    """An autoencoder (worker/engine/family.py) of models that denoise pixels themselves: it does nothing."""

    pixels_per_latent = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def encode(self, images: torch.Tensor) -> Posterior:
        return Posterior(to_device(images, self._device).float())

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def in_float32(self) -> Pixels:
        """Itself."""
        return self

    def picture_bytes(self, height: int, width: int) -> float:
        """Pixels on their way to the host, as float32 and as bytes."""
        return 3.0 * height * width * (4 + 1)


class Movq:
    """An autoencoder (worker/engine/family.py) whose latents are as its network has them, and are not quantized:
    Kandinsky's (Zheng et al. 2022, "MoVQ")."""

    def __init__(self, movq: Any, *, pixels_per_latent: int, device: torch.device) -> None:
        self._movq = movq
        self._device = device
        self.pixels_per_latent = pixels_per_latent

    def encode(self, images: torch.Tensor) -> Posterior:
        return Posterior(self._movq.encode(to_device(images, self._device).to(self._movq.dtype)).latents.float())

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self._movq.decode(latents.to(self._movq.dtype), force_not_quantize=True).sample
        return images

    def in_float32(self) -> Movq:
        """Itself, or a copy that takes twice the memory."""
        if self._movq.dtype == torch.float32:
            return self
        movq = copy.deepcopy(self._movq).float()
        return Movq(movq, pixels_per_latent=self.pixels_per_latent, device=self._device)

    def picture_bytes(self, height: int, width: int) -> float:
        scale = self.pixels_per_latent
        return decode_bytes(self._movq.config, scale * height, scale * width, self._movq.dtype.itemsize)


class ScaledAutoencoder:
    """An autoencoder (worker/engine/family.py) whose latents are the VAE's times its scaling_factor.

    Like StableDiffusionPipeline, knows no shift_factor: no family here has one. The VAE may be of another type than the
    denoiser: SDXL's is.
    """

    def __init__(self, vae: Any, *, pixels_per_latent: int, device: torch.device) -> None:
        self._vae = vae
        self._device = device
        self.pixels_per_latent = pixels_per_latent

    def encode(self, images: torch.Tensor) -> Posterior:
        encoded = self._vae.encode(to_device(images, self._device).to(self._vae.dtype))
        scale = self._vae.config.scaling_factor
        if not hasattr(encoded, "latent_dist"):
            return Posterior(encoded.latents.float() * scale)
        z = encoded.latent_dist
        return Posterior(z.mean.float() * scale, z.std.float() * scale)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        z = latents.to(self._vae.dtype) / self._vae.config.scaling_factor
        images: torch.Tensor = self._vae.decode(z, return_dict=False)[0]
        return images

    def in_float32(self) -> ScaledAutoencoder:
        """Itself, or a copy that takes twice the memory."""
        if self._vae.dtype == torch.float32:
            return self
        return ScaledAutoencoder(
            copy.deepcopy(self._vae).float(), pixels_per_latent=self.pixels_per_latent, device=self._device
        )

    def picture_bytes(self, height: int, width: int) -> float:
        scale = self.pixels_per_latent
        return decode_bytes(self._vae.config, scale * height, scale * width, self._vae.dtype.itemsize)
