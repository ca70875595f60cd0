"""Pillow's resizing on tensors, on any device, with the same pixels: its sums are of whole numbers, and so are these.

After Pillow's src/libImaging/Resample.c: each side by itself, first across and then down, with weights of 22 bits and
levels that are whole in between. torch's own antialiased resizing is off by up to four levels in 255. Pillow 13 shrinks
pictures that are more than twice as high as wide first down and then across, which is one level here and there.
"""

from __future__ import annotations

from functools import lru_cache

import torch

BITS = 22
"""Of a weight. Products and sums stay below 2^53, so a float64 holds them exactly in whatever order they are added."""

BICUBIC_A = -0.5


def resized(levels: torch.Tensor, size: tuple[int, int], filter_name: str) -> torch.Tensor:
    """`levels` [..., H, W] of 0 to 255, whole numbers in float64, at another size (height, width).

    `filter_name` is bilinear or bicubic.
    """
    (height, width), device = levels.shape[-2:], levels.device
    if width != size[1]:
        levels = _rounded(levels @ weights(width, size[1], filter_name, device).T)
    if height != size[0]:
        levels = _rounded(weights(height, size[0], filter_name, device) @ levels)
    return levels


# Kept on the device, since the host waits for whatever it brings there.
@lru_cache(maxsize=64)
def weights(before: int, after: int, filter_name: str, device: torch.device) -> torch.Tensor:
    """How much of each of `before` levels is in each of `after`, times 2^BITS: float64 [after, before]."""
    function, reach = FILTERS[filter_name]
    scale = before / after
    stretch = max(scale, 1.0)
    matrix = torch.zeros(after, before, dtype=torch.float64)
    for place in range(after):
        centre = (place + 0.5) * scale
        first = max(0, int(centre - reach * stretch + 0.5))
        last = min(before, int(centre + reach * stretch + 0.5))
        parts = [function(abs(at - centre + 0.5) * (1.0 / stretch)) for at in range(first, last)]
        # One after the other, as Pillow does: the last bit of the sum depends on the order.
        whole = 0.0
        for part in parts:
            whole += part
        whole_numbers = [int(part / whole * (1 << BITS) + (0.5 if part >= 0 else -0.5)) for part in parts]
        matrix[place, first:last] = torch.tensor(whole_numbers, dtype=torch.float64)
    return matrix.to(device)


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    return ((sums + (1 << (BITS - 1))) / (1 << BITS)).floor().clamp(0, 255)


def _bilinear(x: float) -> float:
    return 1.0 - x if x < 1.0 else 0.0


def _bicubic(x: float) -> float:
    """Keys 1981."""
    a = BICUBIC_A
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


FILTERS = {"bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0)}
"""By name: the weight at a distance, and the distance from which it is 0."""
