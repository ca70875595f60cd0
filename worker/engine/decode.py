"""From latents to pixels, and from the device to the host: a decode is sent off, and its pictures are read later.

Knows samples and the autoencoder. Knows no seats, and not when it is time to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from worker.engine.costs import AT_ONCE
from worker.engine.denoise import Finite
from worker.engine.errors import NumericalError
from worker.engine.family import Autoencoder
from worker.engine.sample import Sample
from worker.engine.tiles import as_memory_allows, in_tiles
from worker.engine.transfer import to_host


class Decoded:
    """The pictures of one decode, on their way to the host."""

    def __init__(self, images: torch.Tensor) -> None:
        # Before the conversion to uint8, which would turn NaN into a black picture. Honest black pictures are finite.
        self._finite = Finite(torch.isfinite(images).flatten(1).all(1))
        self._pixels, self._arrived = to_host(_to_pixels(images))

    def __getitem__(self, k: int) -> np.ndarray | NumericalError:
        """Picture k, uint8 [H, W, 3], or the error where the autoencoder overflowed. Waits until it has come."""
        if self._arrived is not None:
            self._arrived.synchronize()
        if not self._finite[k]:
            return NumericalError("The decoded picture was not a number; try another seed or scheduler.")
        picture: np.ndarray = self._pixels[k].numpy()
        return picture


def ready_to_decode(samples: Sequence[Sample]) -> tuple[list[Sample], int | None]:
    """The samples to decode next: the oldest denoised one, and as many others of its lane as there is memory for; and
    the side of a tile in latents, where there is none even for one."""
    denoised = [sample for sample in samples if sample.is_denoised and not sample.is_decoding]
    if not denoised:
        return [], None
    lane = denoised[0].lane
    fit, tile = lane.decodes
    # Kernels differ with the size of the batch, and so would the pixels.
    at_once = 1 if denoised[0].job.request.reproducible else min(AT_ONCE, fit)
    return [sample for sample in denoised if sample.lane is lane][:at_once], tile


def decode(
    autoencoder: Autoencoder,
    samples: Sequence[Sample],
    *,
    tile: int | None = None,
    make_room: Callable[[], bool] = lambda: False,
) -> list[tuple[Decoded, int]]:
    """Where the picture of each sample of one lane will be: in which decode, and its place there.

    A picture for which memory is too small is decoded in tiles, of `tile` latents where that is known beforehand, and
    its sample says so. Where it was not, `make_room` comes before anything smaller: it answers whether it made some.
    """
    latents = torch.stack([sample.latents for sample in samples])
    scale = autoencoder.pixels_per_latent

    def call(tile: int | None) -> Decoded:
        if tile is None:
            return Decoded(autoencoder.decode(latents))
        return Decoded(in_tiles(autoencoder.decode, latents, tile=tile, leaves=scale))

    decoded, is_tiled = as_memory_allows(
        call,
        side=max(latents.shape[-2:]),
        tile=tile,
        is_alone=len(samples) == 1,
        make_room=make_room,
        stage="decode",
    )
    for sample in samples:
        sample.is_tiled = is_tiled
    return [(decoded, k) for k in range(len(samples))]


def _to_pixels(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] of -1 to 1, to uint8 [B, H, W, 3] on the same device. In the order of VaeImageProcessor, so that
    pictures are equal."""
    images = (images * 0.5 + 0.5).clamp(0, 1).float()
    return (images * 255).round().nan_to_num().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
