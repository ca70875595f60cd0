"""Which icon is it: the nearest of all icons, drawn at the usual places and sizes on the picture's own background.

A rule on pixels like those of `rules`, but it needs the sprites. For pictures of one thing in the middle of a plain
background; knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from recipes.starter.compose import Composer, pack
from recipes.starter.plan import Plan, Thing
from recipes.starter.rules import border
from recipes.starter.words import Colour

GRID = 32
"""Templates and pictures are compared at so many pixels a side, so that soft edges cost little."""

SIZES, OFFSETS = (0.66, 0.715, 0.77), (-0.03, 0.0, 0.03)
SIDE = 128


class Templates:
    """Colour over alpha [objects, variants, 4, GRID, GRID], colour times alpha."""

    def __init__(self, composer: Composer, objects: Sequence[str]) -> None:
        self.objects = tuple(objects)
        self.cut_outs = torch.stack([_cut_out(composer, name) for name in objects])

    def nearest(self, picture: NDArray[np.uint8]) -> str:
        """The object with the smallest squared error in its best variant."""
        ground = torch.from_numpy(np.median(border(picture), 0)).float().view(1, 3, 1, 1) / 255
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        seen = F.interpolate(pixels, (GRID, GRID), mode="area")
        errors = []
        for variants in self.cut_outs:
            drawn = variants[:, :3] + ground * (1 - variants[:, 3:])
            errors.append((drawn - seen).square().mean((1, 2, 3)).min())
        return self.objects[int(torch.stack(errors).argmin())]


def _cut_out(composer: Composer, name: str) -> torch.Tensor:
    """The object's variants, from what they look like on black and on white."""
    on_black, on_white = (_drawn(composer, name, (ground,) * 3) for ground in (0, 255))
    alpha = 1 - (on_white - on_black).mean(1, keepdim=True)
    return torch.cat([on_black, alpha.clamp(0, 1)], 1)


def _drawn(composer: Composer, name: str, ground: Colour) -> torch.Tensor:
    plans = [
        _plan(name, ground, size, 0.5 + dx, 0.5 + dy, flip)
        for size, dx, dy, flip in product(SIZES, OFFSETS, OFFSETS, (False, True))
    ]
    pictures = composer.draw(pack(plans, composer.sprites.names, np.zeros((len(plans), 2), np.float32)))
    return F.interpolate(pictures, (GRID, GRID), mode="area").cpu()


def _plan(name: str, ground: Colour, size: float, cx: float, cy: float, flip: bool) -> Plan:
    thing = Thing(name=name, colour=None, rgb=None, cx=cx, cy=cy, size=size * SIDE, flip=flip)
    return Plan(width=SIDE, height=SIDE, mode="single", things=(thing,), background="", background_rgb=ground)
