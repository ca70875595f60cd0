"""Plans in pixels, a batch at a time, on whatever device the sprites are.

Knows how sprites are placed, coloured and laid over each other. `pack` (numbers from plans, on the host) and
`Composer.draw` (pictures from numbers, on the device) are apart, so that packing can happen in other processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from recipes.starter import scenery
from recipes.starter.plan import Plan, Thing
from recipes.starter.sprites import LEVELS, SIDE, Sprites
from recipes.starter.styles import STYLERS
from recipes.starter.words import SCENES

Floats = NDArray[np.float32]
SCENE_INDEX = {name: index for index, name in enumerate(SCENES)}


@dataclass(frozen=True)
class Layer:
    """Things of one depth and one sprite size. `ramp` [n, 3, 3] is the colour at tones 0, 0.6 and 1; `own` where not
    used. `theta` [n, 2, 3] takes canvas coordinates to the sprite's, both -1..1."""

    level: int
    rows: NDArray[np.int64]
    sprite: NDArray[np.int64]
    own: NDArray[np.bool_]
    ramp: Floats
    theta: Floats


@dataclass(frozen=True)
class Packed:
    """A batch of plans of one canvas, in numbers. `scene` is -1 where `plain` [B, 3] is the background."""

    width: int
    height: int
    plain: Floats
    scene: NDArray[np.int64]
    window: Floats
    layers: tuple[Layer, ...]
    styles: tuple[tuple[str, NDArray[np.int64]], ...]


def pack(plans: Sequence[Plan], names: Sequence[str], uniform: Floats) -> Packed:
    """`uniform` [B, 2] in 0..1 chooses each scene's variation and window. All plans must have one canvas."""
    if len({(plan.width, plan.height) for plan in plans}) != 1:
        raise ValueError("The plans of a batch have different canvases; sort them first.")
    index = {name: position for position, name in enumerate(names)}
    styles = [(style, [row for row, plan in enumerate(plans) if plan.style == style]) for style in STYLERS]
    return Packed(
        width=plans[0].width,
        height=plans[0].height,
        plain=np.array([plan.background_rgb or (0, 0, 0) for plan in plans], np.float32) / np.float32(255),
        scene=np.array([SCENE_INDEX.get(plan.background, -1) for plan in plans], np.int64),
        window=uniform.astype(np.float32),
        layers=tuple(_layers(plans, index)),
        styles=tuple((style, np.array(rows, np.int64)) for style, rows in styles if rows),
    )


def _layers(plans: Sequence[Plan], index: dict[str, int]) -> list[Layer]:
    """Later things lie over earlier ones, so the depth is the outer order."""
    groups: dict[tuple[int, int], list[tuple[int, Thing]]] = {}
    for row, plan in enumerate(plans):
        for depth, thing in enumerate(plan.things):
            groups.setdefault((depth, _level(thing.size)), []).append((row, thing))
    width, height = plans[0].width, plans[0].height
    return [_layer(level, members, index, width, height) for (_, level), members in sorted(groups.items(), key=_order)]


def _order(item: tuple[tuple[int, int], object]) -> tuple[int, int]:
    return item[0]


def _layer(level: int, members: list[tuple[int, Thing]], index: dict[str, int], width: int, height: int) -> Layer:
    things = [thing for _, thing in members]
    return Layer(
        level=level,
        rows=np.array([row for row, _ in members], np.int64),
        sprite=np.array([index[thing.name] for thing in things], np.int64),
        own=np.array([thing.rgb is None for thing in things]),
        ramp=np.array([_ramp(thing) for thing in things], np.float32),
        theta=np.array([_theta(thing, width, height) for thing in things], np.float32),
    )


def _level(size: float) -> int:
    """The smallest copy that need not be enlarged by more than a fifth."""
    return max(k for k, side in enumerate(LEVELS) if k == 0 or side * 1.2 >= size)


def _theta(thing: Thing, width: int, height: int) -> list[list[float]]:
    turn = math.radians(thing.angle)
    across, down = width / thing.size, height / thing.size
    mirror = -1.0 if thing.flip else 1.0
    x, y = 2 * thing.cx - 1, 2 * thing.cy - 1
    a, b = mirror * math.cos(turn) * across, mirror * math.sin(turn) * down
    c, d = -math.sin(turn) * across, math.cos(turn) * down
    return [[a, b, -(a * x + b * y)], [c, d, -(c * x + d * y)]]


def _ramp(thing: Thing) -> Floats:
    """Colours at tones 0, 0.6 and 1: shade, the colour itself, light. A shape is flat."""
    if thing.rgb is None:
        return np.zeros((3, 3), np.float32)
    colour = np.array(thing.rgb, np.float32) / 255
    if thing.is_shape:
        return np.stack([colour] * 3)
    if thing.colour == "black":
        return np.stack([colour * 0 + tone for tone in (0.03, 0.15, 0.38)])
    if thing.colour == "white":
        return np.stack([colour * 0 + tone for tone in (0.55, 0.9, 1.0)])
    return np.stack([colour * 0.3, colour, colour + (1 - colour) * 0.55])


class Composer:
    """Sprites and scenery on one device, ready to be drawn."""

    def __init__(self, sprites: Sprites, *, device: torch.device | str = "cpu", variations: int = 48) -> None:
        self.device = torch.device(device)
        self.sprites = sprites.to(self.device)
        self.scenery = scenery.bank(variations).to(self.device)

    def draw(self, packed: Packed) -> torch.Tensor:
        """Pictures, float [B, 3, H, W] in 0..1."""
        canvas = self._backgrounds(packed)
        for layer in packed.layers:
            self._lay_over(canvas, layer)
        for style, rows in packed.styles:
            where = self._send(rows)
            canvas[where] = STYLERS[style](canvas[where])
        return canvas.clamp_(0, 1)

    def _backgrounds(self, packed: Packed) -> torch.Tensor:
        plain = self._send(packed.plain)[:, :, None, None]
        canvas = plain.expand(-1, -1, packed.height, packed.width).clone()
        rows = np.flatnonzero(packed.scene >= 0)
        if len(rows):
            canvas[self._send(rows)] = self._scenes(packed, rows)
        return canvas

    def _scenes(self, packed: Packed, rows: NDArray[np.int64]) -> torch.Tensor:
        """A window of full height out of a variation, brought to the canvas."""
        variation = (packed.window[rows, 0] * self.scenery.shape[1]).astype(np.int64)
        pictures = self.scenery[self._send(packed.scene[rows]), self._send(variation)].float() / 255
        share = min(1.0, packed.width / packed.height * scenery.HEIGHT / scenery.WIDTH)
        theta = np.zeros((len(rows), 2, 3), np.float32)
        theta[:, 0, 0], theta[:, 1, 1] = share, 1.0
        theta[:, 0, 2] = (2 * packed.window[rows, 1] - 1) * (1 - share)
        size = [len(rows), 3, packed.height, packed.width]
        grid = F.affine_grid(self._send(theta), size, align_corners=False)
        if packed.height < scenery.HEIGHT:
            pictures = F.interpolate(pictures, scale_factor=packed.height / scenery.HEIGHT, mode="area")
        return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    def _lay_over(self, canvas: torch.Tensor, layer: Layer) -> None:
        rows = self._send(layer.rows)
        sprite = self.sprites.levels[layer.level][self._send(layer.sprite)].float() / 255
        grid = F.affine_grid(self._send(layer.theta), [len(layer.rows), 5, *canvas.shape[-2:]], align_corners=False)
        colour, tone, alpha = F.grid_sample(sprite, grid, align_corners=False).split((3, 1, 1), dim=1)
        tinted = _coloured(tone / alpha.clamp(min=1e-3), self._send(layer.ramp)) * alpha
        own = self._send(layer.own)[:, None, None, None]
        canvas[rows] = canvas[rows] * (1 - alpha) + torch.where(own, colour, tinted)

    def _send(self, array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def _coloured(tone: torch.Tensor, ramp: torch.Tensor) -> torch.Tensor:
    """Piecewise linear through the ramp's three colours: tone [n, 1, H, W] to colour [n, 3, H, W]."""
    shade, middle, light = (ramp[:, k, :, None, None] for k in range(3))
    lower, upper = (tone / 0.6).clamp(0, 1), ((tone - 0.6) / 0.4).clamp(0, 1)
    return shade + (middle - shade) * lower + (light - middle) * upper


assert LEVELS[0] == SIDE, "the first level is the sprite itself; anything else is a bug."
