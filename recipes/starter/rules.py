"""What can be told of a picture by rules on its pixels: colours, shape, count, place, style.

Pictures are uint8 [H, W, 3]. Each check answers whether the picture shows what its plan says. Rules err, so the
evaluation also asks them about composed pictures, which are right by construction. Knows no network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

from recipes.starter import scenery, sprites
from recipes.starter.plan import LAYOUTS, Plan
from recipes.starter.styles import cell_side
from recipes.starter.words import COLOURS, POSITIONS, SCENES, SHAPES

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

NAMES = tuple(COLOURS)
PALETTE = np.array([COLOURS[name] for name in NAMES], float)
EYE = np.array([2.0, 4.0, 3.0])
"""Weights of squared differences in red, green and blue, roughly as the eye has them."""

FOREGROUND = 40.0
"""Distance from the background's colour, in sRGB steps."""


def nearest_colour(rgb: Values) -> str:
    return NAMES[int((((PALETTE - rgb) ** 2) * EYE).sum(1).argmin())]


def border(picture: Picture) -> Values:
    """The pixels of a frame of one thirteenth of the shorter side, [n, 3]."""
    return picture[_frame(picture.shape[0], picture.shape[1])].astype(float)


def _frame(height: int, width: int) -> Mask:
    thick = min(height, width) // 13
    frame = np.ones((height, width), bool)
    frame[thick:-thick, thick:-thick] = False
    return frame


def foreground(picture: Picture) -> Mask:
    """What differs from a plain background."""
    background = np.median(border(picture), 0)
    different = ((picture.astype(float) - background) ** 2).sum(-1) > FOREGROUND**2
    return np.asarray(ndimage.binary_opening(different, iterations=1), bool)


@dataclass(frozen=True)
class Blob:
    """A connected part: its mask in its bounding box, its centre in shares of width and height, its colour's name."""

    mask: Mask
    cx: float
    cy: float
    area: int
    colour: str


def blobs(picture: Picture, *, least: float = 0.2) -> list[Blob]:
    """Parts that have at least `least` of the biggest part's area, from left to right."""
    labels, _ = ndimage.label(foreground(picture))
    found = [_blob(picture, labels == number + 1, box) for number, box in enumerate(ndimage.find_objects(labels))]
    biggest = max((blob.area for blob in found), default=0)
    return sorted((blob for blob in found if blob.area >= least * biggest), key=lambda blob: blob.cx)


def _blob(picture: Picture, mask: Mask, box: tuple[slice, slice]) -> Blob:
    cy, cx = ndimage.center_of_mass(mask)
    return Blob(
        mask=mask[box],
        cx=(cx + 0.5) / mask.shape[1],
        cy=(cy + 0.5) / mask.shape[0],
        area=int(mask.sum()),
        colour=nearest_colour(np.median(picture[mask].astype(float), 0)),
    )


TEMPLATE = 48


def shape_of(mask: Mask) -> str:
    """The shape whose outline, stretched to the same box, overlaps most (intersection over union)."""
    outline = _stretched(mask)
    overlap = {name: (outline & kept).sum() / (outline | kept).sum() for name, kept in _templates().items()}
    return max(overlap, key=lambda name: overlap[name])


@cache
def _templates() -> Mapping[str, Mask]:
    whole = {name: sprites.draw_shape(name)[..., 3] > 127 for name in SHAPES}
    return {name: _stretched(mask[ndimage.find_objects(mask.astype(int))[0]]) for name, mask in whole.items()}


def _stretched(mask: Mask) -> Mask:
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize((TEMPLATE, TEMPLATE), Image.Resampling.BILINEAR)
    return np.asarray(image) > 127


def background(picture: Picture, plan: Plan) -> bool:
    return nearest_colour(np.median(border(picture), 0)) == plan.background


def scene(picture: Picture, plan: Plan) -> bool:
    """The nearest mean frame of the drawn scenes."""
    height, width = picture.shape[:2]
    seen = border(picture)
    distance = {name: ((frame - seen) ** 2).mean() for name, frame in _scene_frames(height, width).items()}
    return min(distance, key=lambda name: distance[name]) == plan.background


@cache
def _scene_frames(height: int, width: int) -> Mapping[str, Values]:
    pictures = scenery.bank(24, seed=1).float().mean(1).permute(0, 2, 3, 1).numpy().round().astype(np.uint8)
    share = min(1.0, width / height * scenery.HEIGHT / scenery.WIDTH)
    left = round(scenery.WIDTH * (1 - share) / 2)
    windows = pictures[:, :, left : scenery.WIDTH - left or None]
    resized = [np.asarray(Image.fromarray(window).resize((width, height))) for window in windows]
    return {name: border(window) for name, window in zip(SCENES, resized, strict=True)}


def colour(picture: Picture, plan: Plan) -> bool:
    """Most of the foreground has the colour of the (first) thing."""
    mask = foreground(picture)
    return bool(mask.any()) and nearest_colour(np.median(picture[mask].astype(float), 0)) == plan.things[0].colour


def shape(picture: Picture, plan: Plan) -> bool:
    """Every part has the shape of the first thing."""
    parts = blobs(picture)
    return bool(parts) and all(shape_of(part.mask) == plan.things[0].name for part in parts)


def count(picture: Picture, plan: Plan) -> bool:
    return len(blobs(picture)) == len(plan.things)


FAIR = 0.4
"""Share of its fair part of the foreground that each place of an arrangement must have."""


def arrangement(picture: Picture, plan: Plan) -> bool:
    """The nearest arrangement has as many things as asked, and each place has its thing.

    For objects, that may touch each other and fall into parts by their own colours, where `count` sees parts.
    """
    mask = foreground(picture)
    overlaps = []
    for places in _arrangements(*mask.shape):
        union = np.logical_or.reduce(places)
        overlaps.append((mask & union).sum() / (mask | union).sum())
    nearest = _arrangements(*mask.shape)[int(np.argmax(overlaps))]
    filled = np.array([(mask & place).sum() for place in nearest])
    return len(nearest) == len(plan.things) and bool((filled >= FAIR * mask.sum() / len(nearest)).all() and mask.any())


@cache
def _arrangements(height: int, width: int) -> Sequence[Sequence[Mask]]:
    """One disc for each thing of each arrangement, and a big one alone."""
    y, x = np.mgrid[0.5:height, 0.5:width]
    side = min(height, width)

    def disc(cx: float, cy: float, diameter: float) -> Mask:
        return np.asarray((x - cx * width) ** 2 + (y - cy * height) ** 2 < (diameter * side / 2) ** 2)

    found = [[disc(0.5, 0.5, 0.75)]]
    for layout in itertools.chain.from_iterable(LAYOUTS.values()):
        row = len({cx for cx, _ in layout}) == 3 and len({cy for _, cy in layout}) == 1
        found.append([disc(cx, cy, 0.3 if row else 0.45) for cx, cy in layout])
    return found


def position(picture: Picture, plan: Plan) -> bool:
    """The foreground's centre is nearest to the place that was asked for, of all places and the middle."""
    mask = foreground(picture)
    if plan.position is None or not mask.any():
        return False
    y, x = ndimage.center_of_mass(mask)
    place = np.array([(x + 0.5) / mask.shape[1], (y + 0.5) / mask.shape[0]])
    distance = {name: np.square(place - centre).sum() for name, centre in {**POSITIONS, "": (0.5, 0.5)}.items()}
    return min(distance, key=lambda name: distance[name]) == plan.position


def _in_order(picture: Picture, plan: Plan) -> list[Blob]:
    """The parts in the order in which the plan names its things."""
    return sorted(blobs(picture), key=lambda blob: blob.cy if plan.relation == "above" else blob.cx)


def colours_bound(picture: Picture, plan: Plan) -> bool:
    """Each thing is in its own place with its own colour."""
    return [blob.colour for blob in _in_order(picture, plan)] == [thing.colour for thing in plan.things]


def shapes_bound(picture: Picture, plan: Plan) -> bool:
    """Each thing is in its own place with its own shape."""
    return [shape_of(blob.mask) for blob in _in_order(picture, plan)] == [thing.name for thing in plan.things]


def style(picture: Picture, plan: Plan) -> bool:
    return {"bw": _is_bw, "pixel": _is_pixel, "sketch": _is_sketch}[str(plan.style)](picture)


def _saturation(picture: Picture) -> float:
    values = picture.astype(float)
    return float((values.max(-1) - values.min(-1)).mean())


def _luminance(picture: Picture) -> Values:
    return np.asarray(picture.astype(float) @ np.array([0.299, 0.587, 0.114]))


def _is_bw(picture: Picture) -> bool:
    return _saturation(picture) < 12 and not _is_sketch(picture)


def _is_sketch(picture: Picture) -> bool:
    """Paper with some lead on it."""
    light = _luminance(picture)
    return bool(_saturation(picture) < 20 and np.median(light) > 225 and 0.005 < (light < 170).mean() < 0.4)


ON_GRID = 0.37
"""Share of the contrast that lies on the grid's lines: a quarter by chance, more in pixel art, all in a sharp one."""


def _is_pixel(picture: Picture) -> bool:
    return _contrast_on_grid(picture, cell_side(*picture.shape[:2])) > ON_GRID


def _contrast_on_grid(picture: Picture, cell: int) -> float:
    values = picture.astype(float)
    on_grid, everywhere = 0.0, 1e-9
    for axis in (0, 1):
        contrast = np.square(np.diff(values, axis=axis)).sum(tuple({0, 1, 2} - {axis}))
        on_grid += contrast[cell - 1 :: cell].sum()
        everywhere += contrast.sum()
    return float(on_grid / everywhere)


Check = Callable[[Picture, Plan], bool]
CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (background, scene, colour, shape, count, arrangement, position, colours_bound, shapes_bound, style)
}
