"""Pictures that come in with requests of tests, and the requests that carry them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from app.contract.messages.inputs import InputPicture
from tests.engine.driving import wish
from worker.engine.request import Request


def picture(*, side: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 [side, side, 3]: a slope of colours with boxes on it."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    colours = np.stack([x, y, 1 - x], -1) * 255
    for _ in range(4):
        (top, left), (height, width) = chance.integers(0, side // 2, 2), chance.integers(side // 8, side // 2, 2)
        colours[top : top + height, left : left + width] = chance.integers(0, 256, 3)
    return colours.astype(np.uint8)


def half_mask(*, side: int = 64) -> np.ndarray:
    """uint8 [side, side, 3]: the left half is repainted."""
    mask = np.zeros((side, side, 3), np.uint8)
    mask[:, : side // 2] = 255
    return mask


def box_mask(*, side: int = 64) -> np.ndarray:
    """The middle is repainted, with soft edges around the grey of which half is."""
    y, x = np.mgrid[0:side, 0:side]
    distance = np.maximum(abs(y - side / 2), abs(x - side / 2)) / side
    return np.repeat((np.clip(1.5 - 4 * distance, 0, 1) * 255).astype(np.uint8)[..., None], 3, -1)


def edit(id: str, image: np.ndarray, mask: np.ndarray | None = None, *, strength: float, **changes: Any) -> Request:
    """A request that starts from `image`, and repaints only what is white in `mask`."""
    given = {"image": image} | ({} if mask is None else {"mask_image": mask})
    inputs = {name: named(pixels) for name, pixels in given.items()}
    pictures = {inputs[name].sha256: pixels for name, pixels in given.items()}
    return wish(id, strength=strength, pictures=pictures, **inputs, **changes)


def named(pixels: np.ndarray) -> InputPicture:
    """As a request names it."""
    height, width = pixels.shape[:2]
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return InputPicture(sha256=sha256, width=width, height=height, content_type="image/png")
