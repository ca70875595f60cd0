"""Three ways to redraw a whole picture: in big pixels, without colour, with a pencil.

Knows only tensors: pictures are float [B, 3, H, W] in 0..1, in and out. Differentiability is not promised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

CELL = 4
"""Side of a big pixel, for a picture whose shorter side is 128; twice that at 256."""

SHADES = 6


def pixel(pictures: torch.Tensor) -> torch.Tensor:
    """Big pixels, with SHADES values per channel."""
    cell = cell_side(*pictures.shape[-2:])
    coarse = F.avg_pool2d(pictures, cell).mul(SHADES - 1).round().div(SHADES - 1)
    return F.interpolate(coarse, scale_factor=cell, mode="nearest")


def bw(pictures: torch.Tensor) -> torch.Tensor:
    return _luminance(pictures).expand_as(pictures)


def sketch(pictures: torch.Tensor) -> torch.Tensor:
    """Dark lines where any channel changes, on paper. By luminance alone, red on blue would leave the paper empty."""
    smooth = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=pictures.device)
    across, down = (F.conv2d(padded, k.expand(3, 1, 3, 3), groups=3) for k in (kernel, kernel.T))
    ink = (across.square() + down.square()).sqrt().amax(1, keepdim=True).mul(1.2).clamp(0, 1)
    paper, lead = _colour((0.965, 0.96, 0.93), pictures), _colour((0.12, 0.12, 0.13), pictures)
    return paper * (1 - ink) + lead * ink


STYLERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {"pixel": pixel, "bw": bw, "sketch": sketch}


def cell_side(height: int, width: int) -> int:
    """Pixels of a big pixel's side."""
    return CELL * max(1, min(height, width) // 128)


def _luminance(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures * _colour((0.299, 0.587, 0.114), pictures)).sum(1, keepdim=True)


def _colour(rgb: tuple[float, float, float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(rgb, device=like.device, dtype=like.dtype).view(1, 3, 1, 1)
