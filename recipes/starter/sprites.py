"""The cut-out pictures that scenes are composed of: icons from their SVG, shapes from their geometry.

Knows rasterising and one file format of its own (an .npz of RGBA pictures and names). Knows nothing of scenes.
`python -m recipes.starter.sprites` writes the file; it is all that a machine without a network needs.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recipes.starter.sources import FLUENT, icons
from recipes.starter.words import OBJECTS, SHAPES

SIDE = 256
LEVELS = (256, 128, 64, 32)
"""Sides of each sprite's copies: a big one sampled for a small thing would lose lines (mip maps, Williams 1983)."""

LUMA = (0.3, 0.59, 0.11)


@dataclass(frozen=True)
class Sprites:
    """`levels[k]` is uint8 [N, 5, LEVELS[k], LEVELS[k]]: red, green, blue and tone, all times alpha, and alpha.

    Tone is the icon's luminance stretched around its median, so that a colour ramp over it keeps the drawing visible.
    """

    names: tuple[str, ...]
    levels: tuple[torch.Tensor, ...]

    def to(self, device: torch.device | str) -> Sprites:
        return Sprites(self.names, tuple(level.to(device) for level in self.levels))


def from_rgba(names: tuple[str, ...], rgba: NDArray[np.uint8]) -> Sprites:
    """Sprites of straight (not premultiplied) RGBA pictures [N, SIDE, SIDE, 4]."""
    straight = torch.from_numpy(rgba).permute(0, 3, 1, 2)
    full = torch.stack([_premultiplied(picture) for picture in straight])
    levels = [F.adaptive_avg_pool2d(full, side).mul(255).round().to(torch.uint8) for side in LEVELS]
    return Sprites(names, tuple(levels))


def load(path: Path) -> Sprites:
    """The sprites of a file that `save` wrote."""
    with np.load(path) as file:
        return from_rgba(tuple(str(name) for name in file["names"]), file["rgba"])


def names(path: Path) -> tuple[str, ...]:
    """Whose pictures the file has."""
    with np.load(path) as file:
        return tuple(str(name) for name in file["names"])


def save(path: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, names=np.array(list(pictures)), rgba=np.stack(list(pictures.values())))


def _premultiplied(picture: torch.Tensor) -> torch.Tensor:
    """uint8 RGBA [4, S, S] to float [5, S, S] in 0..1."""
    rgb, alpha = picture[:3].float() / 255, picture[3:].float() / 255
    luminance = (rgb * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    return torch.cat([rgb * alpha, _tone(luminance, alpha) * alpha, alpha])


def _tone(luminance: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The median becomes 0.6, where a ramp has the named colour itself: most of "a red balloon" must be red."""
    visible = luminance[alpha > 0.5]
    if not len(visible):
        return luminance
    low, middle, high = (visible.quantile(share) for share in (0.03, 0.5, 0.97))
    below = 0.6 + 0.6 * (luminance - middle) / (middle - low).clamp(min=0.25)
    above = 0.6 + 0.4 * (luminance - middle) / (high - middle).clamp(min=0.25)
    return torch.where(luminance < middle, below, above).clamp(0, 1)


def rasterise(svg: str) -> NDArray[np.uint8]:
    """RGBA [SIDE, SIDE, 4] of an SVG document. Needs resvg-py."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def draw_shape(name: str, oversample: int = 4) -> NDArray[np.uint8]:
    """RGBA [SIDE, SIDE, 4], white with smooth edges."""
    side = SIDE * oversample
    mask = Image.new("L", (side, side), 0)
    SHAPE_PAINTERS[name](ImageDraw.Draw(mask), float(side))
    alpha = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX))
    return np.dstack([np.full((SIDE, SIDE, 3), 255, np.uint8), alpha])


MARGIN = 0.06
Point = tuple[float, float]


def _circle(draw: ImageDraw.ImageDraw, side: float) -> None:
    draw.ellipse([side * MARGIN, side * MARGIN, side * (1 - MARGIN), side * (1 - MARGIN)], fill=255)


def _square(draw: ImageDraw.ImageDraw, side: float) -> None:
    draw.rectangle([side * 0.09, side * 0.09, side * 0.91, side * 0.91], fill=255)


def _ring(draw: ImageDraw.ImageDraw, side: float) -> None:
    _circle(draw, side)
    inner = MARGIN + 0.22
    draw.ellipse([side * inner, side * inner, side * (1 - inner), side * (1 - inner)], fill=0)


def _cross(draw: ImageDraw.ImageDraw, side: float) -> None:
    low, high, near, far = (side * part for part in (MARGIN, 1 - MARGIN, 0.35, 0.65))
    draw.rectangle([near, low, far, high], fill=255)
    draw.rectangle([low, near, high, far], fill=255)


def _polygon(*points: Point) -> Callable[[ImageDraw.ImageDraw, float], None]:
    """A painter of a polygon with corners in shares of the side."""
    return lambda draw, side: draw.polygon([(x * side, y * side) for x, y in points], fill=255)


def _star_points() -> list[Point]:
    radii = (0.44, 0.185)
    turns = [(radii[i % 2], i * math.pi / 5) for i in range(10)]
    return [(0.5 + radius * math.sin(turn), 0.5 - radius * math.cos(turn)) for radius, turn in turns]


def _heart_points(count: int = 160) -> list[Point]:
    """The sixteen-sine-cubed heart."""
    points, scale = [], 0.46 / 17
    for i in range(count):
        t = 2 * math.pi * i / count
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.5 + 16 * math.sin(t) ** 3 * scale, 0.47 - y * scale))
    return points


SHAPE_PAINTERS: Mapping[str, Callable[[ImageDraw.ImageDraw, float], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon((0.5, MARGIN), (1 - MARGIN, 0.9), (MARGIN, 0.9)),
    "star": _polygon(*_star_points()),
    "heart": _polygon(*_heart_points()),
    "diamond": _polygon((0.5, MARGIN), (0.86, 0.5), (0.5, 1 - MARGIN), (0.14, 0.5)),
    "ring": _ring,
    "cross": _cross,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    parser.add_argument("--objects", help="names of icons, with commas between them; default: all of `words`")
    options = parser.parse_args()
    wanted = options.objects.split(",") if options.objects else list(OBJECTS)
    if unknown := set(wanted) - set(OBJECTS):
        parser.error(f"no such icons in words.py: {', '.join(sorted(unknown))}")
    documents = icons(FLUENT, options.work / "cache", wanted)
    pictures = {name: draw_shape(name) for name in SHAPES} | {name: rasterise(svg) for name, svg in documents.items()}
    path = options.work / "sprites.npz"
    save(path, pictures)
    print(f"{len(pictures)} sprites in {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
