"""How pictures become what a CLIP's vision network sees, as the folder's own files say it.

Equal to transformers' CLIPImageProcessorPil and SiglipImageProcessorPil, and to open_clip's transform, on the device
where the pictures are. Knows no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from worker.models.errors import ModelError
from worker.models.resampling import Window, resized

PREPARATION = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""Where transformers 5 writes the same, beside what it has to say about the tokenizer."""

RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers."""

ResizeMode = Literal["shortest", "longest", "squash"]
"""In open_clip's words: the shorter edge is brought to the size and the middle cut out; the longer one is, and the rest
filled up; or both are, whatever becomes of the picture's shape."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

CLIP: Mapping[str, Any] = {
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "do_center_crop": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": OPENAI_MEAN,
    "image_std": OPENAI_STD,
}
SIGLIP: Mapping[str, Any] = {
    **CLIP,
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
"""What the class says where the file says nothing."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How pictures become what the network sees: `side` x `side` pixels, times `scale`, less `mean`, over `std`.

    `edge`: what the edges that `mode` speaks of are brought to, in pixels; more than `side` where the middle is cut
    out. `fill`: the level of what is filled up. `rounds_to_even`: of two middles torchvision takes the even one,
    transformers the first.
    """

    side: int
    edge: int
    mode: ResizeMode
    resampling: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    fill: int = 0
    rounds_to_even: bool = False

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Float32 [..., 3, side, side] of pictures of one size, uint8 [..., H, W, 3], on their device."""
        # Apple's devices know no float64.
        exact = pictures.cpu() if pictures.device.type == "mps" else pictures
        size = self._resized(*exact.shape[-3:-1])
        height, width = (min(edge, self.side) for edge in size)
        window = Window(self._first(size[0]), self._first(size[1]), height, width)
        levels = self._filled_up(resized(exact.movedim(-1, -3), size, self.resampling, window=window))
        values = (levels * self.scale).float().to(pictures.device)
        return (values - channels(self.mean, values.device)) / channels(self.std, values.device)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before anything is cut out or filled up."""
        if self.mode == "squash":
            return self.edge, self.edge
        if self.mode == "longest":
            ratio = max(height / self.edge, width / self.edge)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        shorter = min(height, width)
        return self.edge * height // shorter, self.edge * width // shorter

    def _first(self, edge: int) -> int:
        """Of an edge that is cut, the first pixel that stays."""
        spare = max(0, edge - self.side)
        return round(spare / 2) if self.rounds_to_even else spare // 2

    def _filled_up(self, levels: torch.Tensor) -> torch.Tensor:
        down, across = (self.side - edge for edge in levels.shape[-2:])
        if not (down or across):
            return levels
        return F.pad(levels, (across // 2, (across + 1) // 2, down // 2, (down + 1) // 2), value=self.fill)


@lru_cache(maxsize=16)
def channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Made once: the host waits for whatever it brings to the device."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def read_preparation(folder: Path) -> Preparation:
    """What the folder's preprocessor_config.json says. Raises ModelError for what is not done here."""
    file = preparation_file(folder)
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return _preparation(said["image_processor"] if file.name == PROCESSOR else said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise untold(file, error) from error


def preparation_file(folder: Path) -> Path:
    """Where a folder of transformers says it."""
    newer = folder / PROCESSOR
    return newer if newer.is_file() and not (folder / PREPARATION).is_file() else folder / PREPARATION


def untold(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file} tells of no way to prepare pictures that is known here ({error!r}).")


def checked(preparation: Preparation) -> Preparation:
    """Raises ValueError for one by which nothing can be prepared."""
    if min(preparation.side, preparation.edge, *preparation.std) <= 0:
        raise ValueError("sizes and deviations are positive")
    if not len(preparation.mean) == len(preparation.std) == 3:
        raise ValueError("there are three colours")
    if preparation.edge < preparation.side and preparation.mode != "longest":
        raise ValueError("more is cut out than there is")
    return preparation


def _preparation(told: Mapping[str, Any]) -> Preparation:
    said = _defaults(told) | {name: value for name, value in told.items() if value is not None}
    if not all(said.get(f"do_{what}", True) for what in ("resize", "rescale", "normalize")):
        raise ValueError("resizing, rescaling or normalizing is off")
    edge, mode = _size(said["size"])
    cuts = bool(said["do_center_crop"])
    if mode == "shortest" and not cuts:
        raise ValueError("pictures keep their shape, and the network sees squares")
    return checked(
        Preparation(
            side=_square(said["crop_size"]) if cuts else edge,
            edge=edge,
            mode=mode,
            resampling=RESAMPLING[said["resample"]],
            scale=float(said["rescale_factor"]),
            mean=tuple(float(value) for value in said["image_mean"]),
            std=tuple(float(value) for value in said["image_std"]),
        )
    )


def _defaults(told: Mapping[str, Any]) -> dict[str, Any]:
    """By the class that is named; files of 2022 name a feature extractor, or nothing."""
    name = told.get("image_processor_type") or told.get("feature_extractor_type") or "CLIPImageProcessor"
    for kind, defaults in {"CLIP": CLIP, "Siglip": SIGLIP}.items():
        if name.removeprefix(kind) in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"):
            return dict(defaults)
    raise ValueError(f"a {name}")


def _size(said: int | Mapping[str, int]) -> tuple[int, ResizeMode]:
    """Older files have one number, that of the shorter edge."""
    if isinstance(said, int):
        return said, "shortest"
    named = {name: value for name, value in said.items() if value is not None}
    if set(named) == {"shortest_edge"}:
        return int(named["shortest_edge"]), "shortest"
    return _square(named), "squash"


def _square(said: int | Mapping[str, int]) -> int:
    """Pixels of a side."""
    sides = {"height": said, "width": said} if isinstance(said, int) else dict(said)
    if set(sides) != {"height", "width"} or sides["height"] != sides["width"]:
        raise ValueError("only squares are known")
    return int(sides["height"])
