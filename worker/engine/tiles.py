"""Latents decoded in overlapping tiles, where the memory is too small for the whole picture.

Knows tensors only. Each tile is normalised by itself inside the decoder, so tiles differ a little in brightness; they
fade into each other over a quarter of their side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

SMALLEST = 32
"""Latents along a side: of smaller tiles, much is overlap, and a decoder sees too little of the picture."""

OVERLAP = 4
"""A tile shares one in so many of its latents with each neighbour."""


def decode_in_tiles(
    decode: Callable[[torch.Tensor], torch.Tensor], latents: torch.Tensor, *, tile: int, scale: int
) -> torch.Tensor:
    """[B, C, h, w] to float32 [B, 3, scale x h, scale x w]. `tile` is a side in latents; one at a time is decoded."""
    height, width = latents.shape[-2:]
    total, weights = torch.zeros(()), torch.zeros(())
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            piece = decode(latents[..., top : top + tile, left : left + tile]).float()
            if total.dim() == 0:
                total = piece.new_zeros(len(latents), piece.shape[1], scale * height, scale * width)
                weights = piece.new_zeros(scale * height, scale * width)
            weight = _fading(piece)
            place = (
                slice(scale * top, scale * top + piece.shape[-2]),
                slice(scale * left, scale * left + piece.shape[-1]),
            )
            total[..., place[0], place[1]] += piece * weight
            weights[place] += weight
    return total / weights


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along a side of `length` latents: evenly, and with at least their overlap."""
    if length <= tile:
        return [0]
    step = tile - tile // OVERLAP
    count = math.ceil((length - tile) / step) + 1
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def _fading(piece: torch.Tensor) -> torch.Tensor:
    """Weights of a tile's pixels [H, W], less towards its edges, never zero. At the picture's own edge that is undone
    by the division: no other tile is there."""
    return _ramp(piece.shape[-2], piece)[:, None] * _ramp(piece.shape[-1], piece)[None, :]


def _ramp(length: int, like: torch.Tensor) -> torch.Tensor:
    at = torch.arange(1, length + 1, device=like.device, dtype=torch.float32)
    return torch.minimum(at, at.flip(0)).clamp(max=max(1, length // OVERLAP))
