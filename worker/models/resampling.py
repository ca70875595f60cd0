"""Pillow's resizing on tensors, on any device, with the same pixels: its sums are of whole numbers, and so are these.

After Pillow's src/libImaging/Resample.c: each side by itself, first across and then down, with weights of 22 bits and
levels that are whole in between. torch's own antialiased resizing is off by up to four levels in 255. Pillow 13 shrinks
pictures whose height shrinks much more than their width first down and then across (its pull request 9549), which is a
level here and there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

BITS = 22
"""Of a weight. Products and sums stay below 2^53, so a float64 holds them exactly in whatever order they are added."""

BICUBIC_A = -0.5


STRIP = 1 << 22
"""Levels that are brought to float64 at a time: a photograph of 64 megapixels would take 1.5 GB at once."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a picture: whoever needs only that has only that computed."""

    top: int
    left: int
    height: int
    width: int


def resized(levels: torch.Tensor, size: tuple[int, int], filter_name: str, *, window: Window) -> torch.Tensor:
    """`levels`, uint8 [..., H, W], at another size (height, width), and of that what lies in the window: whole numbers
    of 0 to 255 in float64 [..., window.height, window.width].

    `filter_name` is bilinear or bicubic.
    """
    (height, width), device = levels.shape[-2:], levels.device
    if width == size[1]:
        levels = levels[..., window.left : window.left + window.width].double()
    else:
        across = weights(width, size[1], window.left, window.width, filter_name, device).T
        rows = max(1, STRIP // (levels.numel() // height))
        levels = torch.cat([_rounded(strip.double() @ across) for strip in levels.split(rows, dim=-2)], dim=-2)
    if height == size[0]:
        return levels[..., window.top : window.top + window.height, :]
    return _rounded(weights(height, size[0], window.top, window.height, filter_name, device) @ levels)


# Kept on the device, since the host waits for whatever it brings there. Few: pictures that are drawn have few sizes,
# and one matrix may have 30 MB.
@lru_cache(maxsize=16)
def weights(before: int, after: int, first: int, count: int, filter_name: str, device: torch.device) -> torch.Tensor:
    """How much of each of `before` levels is in each of `after`, times 2^BITS: of those from `first` on, float64
    [count, before]."""
    function, reach = FILTERS[filter_name]
    scale = before / after
    stretch = max(scale, 1.0)
    matrix = torch.zeros(count, before, dtype=torch.float64)
    for row in range(count):
        centre = (first + row + 0.5) * scale
        start = max(0, int(centre - reach * stretch + 0.5))
        end = min(before, int(centre + reach * stretch + 0.5))
        parts = [function(abs(at - centre + 0.5) * (1.0 / stretch)) for at in range(start, end)]
        # One after the other, as Pillow does: the last bit of the sum depends on the order.
        whole = 0.0
        for part in parts:
            whole += part
        whole_numbers = [int(part / whole * (1 << BITS) + (0.5 if part >= 0 else -0.5)) for part in parts]
        matrix[row, start:end] = torch.tensor(whole_numbers, dtype=torch.float64)
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
