"""Pictures decoded, or encoded, in overlapping tiles, where the memory is too small for the whole.

Knows tensors only. Each tile is normalised by itself inside the network, so tiles differ a little in brightness; they
fade into each other over a quarter of their side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import structlog
import torch

from worker.engine.errors import is_out_of_memory

log = structlog.get_logger()

Result = TypeVar("Result")

SMALLEST = 32
"""Latents along a side: of smaller tiles, much is overlap, and a decoder sees too little of the picture."""

OVERLAP = 4
"""A tile shares one in so many of its latents with each neighbour."""


def as_memory_allows(
    call: Callable[[int | None], Result],
    *,
    side: int,
    tile: int | None,
    is_alone: bool,
    make_room: Callable[[], bool],
    stage: str,
) -> tuple[Result, bool]:
    """What `call` answers, and whether that was in tiles: it is given the side of one, None for the whole, of a picture
    that is `side` latents long. One picture alone is tried again as long as room can be made, and then in smaller and
    smaller tiles, before it fails for want of memory; `tile` is the first, where that is known beforehand."""
    while True:
        is_tiled = tile is not None and side > tile
        try:
            return call(tile if is_tiled else None), is_tiled
        except Exception as error:
            if not is_alone or not is_out_of_memory(error):
                raise
            has_room = make_room()
            smaller = tile if has_room else _smaller(side, tile)
            if smaller is None and not has_room:
                raise
        # Out of the except clause, whose traceback holds the failed call's tensors.
        log.warning("out of memory", stage=stage, tile=smaller)
        tile = smaller


def _smaller(side: int, tile: int | None) -> int | None:
    """The side of the next smaller tiles. None where they would be too small to help."""
    side = side if tile is None else min(side, tile)
    return max(SMALLEST, side // 2) if side > SMALLEST else None


def in_tiles(
    call: Callable[[torch.Tensor], torch.Tensor], whole: torch.Tensor, *, tile: int, enters: int = 1, leaves: int = 1
) -> torch.Tensor:
    """What `call` makes of `whole`, [B, C, H, W], float32, one tile at a time. `tile` is a side in latents; each of
    them is so many values along a side of `whole`, and so many of the answer."""
    height, width = (length // enters for length in whole.shape[-2:])
    total, weights = torch.zeros(()), torch.zeros(())
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            rows, columns = (slice(enters * start, enters * (start + tile)) for start in (top, left))
            piece = call(whole[..., rows, columns]).float()
            if total.dim() == 0:
                total = piece.new_zeros(len(whole), piece.shape[1], leaves * height, leaves * width)
                weights = piece.new_zeros(leaves * height, leaves * width)
            weight = _fading(piece)
            place = (
                slice(leaves * top, leaves * top + piece.shape[-2]),
                slice(leaves * left, leaves * left + piece.shape[-1]),
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
