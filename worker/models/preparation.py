"""How pictures become what a CLIP's vision network sees, as a folder's preprocessor_config.json says it.

Equal to transformers' CLIPImageProcessorPil, on the device where the pictures are. Knows no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from worker.models.errors import ModelError
from worker.models.resampling import resized

PREPARATION = "preprocessor_config.json"
RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers."""

CLIP: Mapping[str, Any] = {
    "size": 224,
    "crop_size": 224,
    "do_center_crop": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
"""What the class says where the file says nothing."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How pictures become what the network sees: `side` x `side` pixels, times `scale`, less `mean`, over `std`.

    `cuts`: the shorter edge is brought to `side` and the middle cut out; otherwise the picture is squeezed.
    """

    side: int
    cuts: bool
    resampling: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """Float32 [1, 3, side, side] of a picture, uint8 [H, W, 3], on its device."""
        height, width, _ = picture.shape
        shorter = min(height, width)
        size = tuple(self.side * edge // shorter if self.cuts else self.side for edge in (height, width))
        # Apple's devices know no float64.
        exact = picture.cpu() if picture.device.type == "mps" else picture
        levels = resized(exact.permute(2, 0, 1).double(), (size[0], size[1]), self.resampling)
        top, left = ((edge - self.side) // 2 for edge in size)
        middle = levels[:, top : top + self.side, left : left + self.side]
        values = (middle * self.scale).float().to(picture.device)
        return ((values - channels(self.mean, values.device)) / channels(self.std, values.device))[None]


@lru_cache(maxsize=16)
def channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Made once: the host waits for whatever it brings to the device."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def read_preparation(folder: Path) -> Preparation:
    """What the folder's preprocessor_config.json says. Raises ModelError for what is not done here."""
    file = folder / PREPARATION
    try:
        return _preparation(CLIP | json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} tells of no way to prepare pictures that is known here ({error!r}).") from error


def _preparation(said: Mapping[str, Any]) -> Preparation:
    if not all(said.get(f"do_{what}", True) for what in ("resize", "rescale", "normalize")):
        raise ValueError("resizing, rescaling or normalizing is off")
    cuts = bool(said["do_center_crop"])
    sides = _sides(said["size"]) | (_sides(said["crop_size"]) if cuts else set())
    mean, std = (tuple(float(value) for value in said[f"image_{name}"]) for name in ("mean", "std"))
    if len(sides) != 1 or min(*sides, *std) <= 0 or not len(mean) == len(std) == 3:
        raise ValueError("only squares are known, and three positive deviations")
    return Preparation(sides.pop(), cuts, RESAMPLING[said["resample"]], float(said["rescale_factor"]), mean, std)


def _sides(size: int | Mapping[str, int]) -> set[int]:
    """Pixels: older files have one number, newer ones a shortest edge, or height and width."""
    return {int(side) for side in ([size] if isinstance(size, int) else size.values())}
