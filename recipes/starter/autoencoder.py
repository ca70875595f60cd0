"""The picture's way to latents and back: an exact linear encoder and a decoder to be trained.

The encoder is the principal components of 8 x 8 patches, written into AutoencoderTiny's convolutions, which have no
nonlinearity between them when there are no blocks. So it needs no training and latents of a training picture cost one
matrix product. Knows the layout of diffusers' AutoencoderTiny; knows nothing of what is in the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from recipes.starter.networks import FULL, Sizes

PATCH = 8
VALUES = PATCH * PATCH * 3
ENCODER_WIDTH = 48
"""Channels of a 4 x 4 patch: the last thing before the components."""

LATENT_SCALE = 3.0
"""Latents of unit variance, over what the VAE itself holds. AutoencoderTiny's decoder starts with 3 tanh(x / 3), and
whitened components reach 10."""


@dataclass(frozen=True)
class Components:
    """Principal components of patches in the order row, column, channel.

    `mean` is [192], `basis` [192, L] with a column per component, over its standard deviation.
    """

    mean: torch.Tensor
    basis: torch.Tensor

    @property
    def kernel(self) -> torch.Tensor:
        """The same as a convolution's weight [L, 3, 8, 8]."""
        return self.basis.T.reshape(-1, PATCH, PATCH, 3).permute(0, 3, 1, 2).contiguous()

    def to(self, device: torch.device) -> Components:
        return Components(self.mean.to(device), self.basis.to(device))


def fit(pictures: torch.Tensor, channels: int) -> Components:
    """Components of all patches of `pictures`, float [B, 3, H, W] in 0..1, with H and W multiples of 8."""
    return fit_patches(patches(pictures), channels)


def fit_patches(rows: torch.Tensor, channels: int) -> Components:
    """Components of patches [n, 192]."""
    rows = rows.double()
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(rows) - 1))
    values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]
    return Components(mean.float(), (vectors / values.clamp(min=1e-12).sqrt()).float())


def patches(pictures: torch.Tensor) -> torch.Tensor:
    """[B * h * w, 192], values in the order row, column, channel."""
    columns = F.unfold(pictures, PATCH, stride=PATCH)
    batch, _, count = columns.shape
    ordered = columns.view(batch, 3, PATCH * PATCH, count).permute(0, 3, 2, 1)
    return ordered.reshape(batch * count, VALUES)


def encode(pictures: torch.Tensor, components: Components) -> torch.Tensor:
    """Latents as the UNet sees them, unit variance: [B, L, H / 8, W / 8] of pictures in 0..1."""
    bias = -(components.mean @ components.basis)
    return F.conv2d(pictures, components.kernel, bias, stride=PATCH)


def build(components: Components, sizes: Sizes = FULL) -> Any:
    """An AutoencoderTiny whose encoder computes `encode` over LATENT_SCALE, with a decoder of random weights.

    It has as many latent channels as there are components; `sizes` say the rest.
    """
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(ENCODER_WIDTH,) * 4,
        decoder_block_out_channels=(sizes.decoder_width,) * 4,
        num_encoder_blocks=(0, 0, 0, 0),
        num_decoder_blocks=sizes.decoder_blocks,
        latent_channels=components.basis.shape[1],
        scaling_factor=LATENT_SCALE,
        force_upcast=False,
    )
    with torch.no_grad():
        _write(vae.encoder, components)
    return vae


def load_components(path: Path) -> Components:
    """Those that `train_decoder` fitted, or `adopt` read out of a model."""
    stored = load_file(path)
    return Components(stored["mean"], stored["basis"])


def components_of(vae: Any) -> Components:
    """The inverse of `build`: what a linear encoder computes, found by showing it one value at a time.

    Of the many means that give the same bias it is the shortest one.
    """
    shown = torch.cat([torch.zeros(1, VALUES), torch.eye(VALUES)]).view(-1, PATCH, PATCH, 3).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = vae.encode(shown * 2 - 1).latents.flatten(1) * LATENT_SCALE
    bias, basis = answers[0], answers[1:] - answers[0]
    return Components(-(bias @ torch.linalg.pinv(basis)), basis.contiguous())


def _write(encoder: Any, components: Components) -> None:
    """Three convolutions move pixels into channels (space to depth), the fourth is the components, the last the bias.

    The stride-2 convolutions are padded by one and 3 wide: taps 1 and 2 are the two pixels of a pair.
    """
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer in convolutions:
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    first, second, third, fourth, last = convolutions
    channels = components.basis.shape[1]
    first.weight[range(3), range(3), 1, 1] = 1
    _space_to_depth(second, 3)
    _space_to_depth(third, 12)
    fourth.weight[:channels, :, 1:, 1:] = _by_quarters(components)
    last.weight[range(channels), range(channels), 1, 1] = 1
    last.bias.copy_(-(components.mean @ components.basis) / LATENT_SCALE)


def _space_to_depth(layer: torch.nn.Conv2d, channels: int) -> None:
    """Channel (2 dy + dx) * channels + c of the output is channel c of the pixel at (dy, dx)."""
    for dy in range(2):
        for dx in range(2):
            for c in range(channels):
                layer.weight[(2 * dy + dx) * channels + c, c, 1 + dy, 1 + dx] = 1


def _by_quarters(components: Components) -> torch.Tensor:
    """The components as a 2 x 2 convolution [L, 48, 2, 2] over 4 x 4 patches in the channel order above."""
    grid = (components.basis / LATENT_SCALE).T.reshape(-1, 2, 2, 2, 2, 2, 2, 3)
    # row = 4 Y + 2 y2 + y1, column likewise; the channel is ((y2, x2), (y1, x1), c), the later level first.
    length, rows, columns = "l", "Yyu", "Xxv"
    return torch.einsum(f"{length}{rows}{columns}c->lyxuvcYX", grid).reshape(-1, ENCODER_WIDTH, 2, 2)


def psnr(pictures: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """Decibels per picture [B], both in 0..1."""
    return -10 * (pictures - decoded.clamp(0, 1)).square().mean((1, 2, 3)).clamp(min=1e-10).log10()


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Pictures, about 0..1, of latents as the UNet sees them."""
    pictures: torch.Tensor = vae.decoder(latents / LATENT_SCALE)
    return pictures.add(1).div(2)
