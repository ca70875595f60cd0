"""Backgrounds: eight drawn scenes, each in many variations, kept as a bank of wide pictures.

Knows how a beach looks. A bank picture is wider than any canvas; composing takes a window of full height out of it, so
horizons stay where they are and every shape of picture is served.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recipes.starter.words import SCENES, Colour

HEIGHT, WIDTH = 256, 384
Picture = NDArray[np.uint8]


def bank(variations: int, seed: int = 0) -> torch.Tensor:
    """uint8 [scenes, variations, 3, HEIGHT, WIDTH], scenes in the order of SCENES."""
    chance = random.Random(seed)
    pictures = [[draw(name, chance) for _ in range(variations)] for name in SCENES]
    return torch.from_numpy(np.array(pictures)).permute(0, 1, 4, 2, 3).contiguous()


def draw(scene: str, chance: random.Random) -> Picture:
    """One variation, RGB [HEIGHT, WIDTH, 3]."""
    return np.asarray(PAINTERS[scene](chance))


def _bands(*bands: tuple[float, Colour, Colour]) -> Image.Image:
    """Horizontal bands, top to bottom: where each ends (share of the height), its colour above and below."""
    picture, top = np.empty((HEIGHT, WIDTH, 3)), 0
    for end, above, below in bands:
        bottom = round(end * HEIGHT)
        ramp = np.linspace(0, 1, bottom - top)[:, None, None]
        picture[top:bottom] = np.array(above) * (1 - ramp) + np.array(below) * ramp
        top = bottom
    return Image.fromarray(picture.round().astype(np.uint8))


def _horizon(chance: random.Random) -> float:
    return chance.uniform(0.56, 0.69)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, flat: float = 1.0) -> None:
    """Centre and radius in shares of the height."""
    x, y, radius = x * HEIGHT, y * HEIGHT, radius * HEIGHT
    draw.ellipse([x - radius, y - radius * flat, x + radius, y + radius * flat], fill=colour)


ASPECT = WIDTH / HEIGHT


def _dots(
    image: Image.Image,
    chance: random.Random,
    count: int,
    colour: Colour,
    radii: tuple[float, float],
    ys: tuple[float, float] = (0.0, 1.0),
) -> Image.Image:
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        _disc(draw, chance.uniform(0, ASPECT), chance.uniform(*ys), chance.uniform(*radii), colour)
    return image


def _clouds(image: Image.Image, chance: random.Random, count: int, ys: tuple[float, float]) -> Image.Image:
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y = chance.uniform(0, ASPECT), chance.uniform(*ys)
        for offset, radius in ((-0.07, 0.047), (0.0, 0.07), (0.07, 0.047)):
            _disc(draw, x + offset, y, radius, (250, 252, 255), flat=0.8)
    return image


def _sun(image: Image.Image, chance: random.Random, colour: Colour, radius: float) -> Image.Image:
    _disc(ImageDraw.Draw(image), chance.uniform(0, ASPECT), 0.15, radius, colour)
    return image


def _grass(chance: random.Random) -> Image.Image:
    horizon = _horizon(chance)
    land = _bands((horizon, (120, 195, 250), (205, 235, 255)), (1.0, (110, 195, 70), (70, 150, 50)))
    return _clouds(land, chance, 3, (0.06, 0.31))


def _beach(chance: random.Random) -> Image.Image:
    horizon = _horizon(chance)
    sky = (horizon - 0.17, (110, 190, 250), (190, 230, 255))
    land = _bands(sky, (horizon, (30, 130, 200), (60, 180, 215)), (1.0, (245, 220, 160), (230, 195, 125)))
    return _sun(land, chance, (255, 225, 90), 0.086)


def _snow(chance: random.Random) -> Image.Image:
    land = _bands((_horizon(chance), (175, 200, 225), (225, 235, 245)), (1.0, (250, 252, 255), (225, 235, 248)))
    return _dots(land, chance, 33, (255, 255, 255), (0.009, 0.019))


def _space(chance: random.Random) -> Image.Image:
    return _dots(_bands((1.0, (14, 12, 38), (32, 20, 66))), chance, 33, (255, 255, 240), (0.006, 0.014))


def _night(chance: random.Random) -> Image.Image:
    horizon = _horizon(chance)
    land = _bands((horizon, (12, 22, 62), (36, 52, 110)), (1.0, (24, 52, 40), (14, 32, 28)))
    stars = _dots(land, chance, 18, (255, 250, 210), (0.006, 0.0125), (0.0, horizon - 0.08))
    return _sun(stars, chance, (250, 240, 200), 0.07)


def _underwater(chance: random.Random) -> Image.Image:
    sea = _bands((0.91, (60, 170, 215), (8, 60, 120)), (1.0, (215, 190, 135), (205, 180, 125)))
    return _dots(sea, chance, 14, (165, 220, 240), (0.012, 0.027), (0.0, 0.9))


def _desert(chance: random.Random) -> Image.Image:
    land = _bands((_horizon(chance), (255, 205, 130), (255, 235, 190)), (1.0, (225, 165, 85), (200, 135, 65)))
    return _sun(land, chance, (255, 225, 90), 0.086)


def _sky(chance: random.Random) -> Image.Image:
    return _clouds(_bands((1.0, (80, 165, 240), (175, 220, 252))), chance, 6, (0.06, 0.94))


PAINTERS: Mapping[str, Callable[[random.Random], Image.Image]] = {
    "grass": _grass,
    "beach": _beach,
    "snow": _snow,
    "space": _space,
    "night": _night,
    "underwater": _underwater,
    "desert": _desert,
    "sky": _sky,
}
