"""A CLIP in memory: how well a text fits a picture (Radford et al. 2021, arXiv 2103.00020).

Knows a folder in the layout of transformers' CLIPModel, and prepares pictures as its preprocessor_config.json says.
Loads safetensors and local files only. Knows no requests, and no picture's file format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray

from worker.models.errors import ModelError
from worker.models.quiet import quiet_libraries
from worker.models.shapes import AGAIN, cannot_be_loaded

Picture = NDArray[np.uint8]
"""RGB, [H, W, 3], of any size."""

PREPARATION = "preprocessor_config.json"
RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, torch's words."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How pictures become what the network sees: `side` x `side` pixels, less `mean`, over `std` (of 0..1).

    `cuts`: the shorter edge is brought to `side` and the middle cut out; otherwise the picture is squeezed.
    """

    side: int
    cuts: bool
    resampling: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Picture, device: torch.device | str = "cpu") -> torch.Tensor:
        """Float [1, 3, side, side]."""
        # Copied, since torch warns of arrays that may not be written to, as Pillow's are.
        levels = torch.from_numpy(np.array(picture)).to(device).permute(2, 0, 1)[None].float()
        height, width = levels.shape[-2:]
        shorter = min(height, width)
        size = tuple(self.side * edge // shorter if self.cuts else self.side for edge in (height, width))
        if size != (height, width):
            # Pillow rounds to whole levels.
            levels = F.interpolate(levels, size, mode=self.resampling, antialias=True).clamp(0, 255).round()
        top, left = ((edge - self.side) // 2 for edge in size)
        middle = levels[..., top : top + self.side, left : left + self.side]
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return (middle / 255 - mean) / std


def read_preparation(folder: Path) -> Preparation:
    """What the folder's preprocessor_config.json says. Raises ModelError for what is not done here."""
    file = folder / PREPARATION
    try:
        return _preparation(json.loads(file.read_text(encoding="utf-8")))
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
    return Preparation(sides.pop(), cuts, RESAMPLING[said["resample"]], mean, std)


def _sides(size: int | Mapping[str, int]) -> set[int]:
    """Pixels: older files have one number, newer ones a shortest edge, or height and width."""
    return {int(side) for side in ([size] if isinstance(size, int) else size.values())}


class Scorer:
    """A loaded CLIP. One thread at a time: the tokenizer's padding is state that all its callers share."""

    def __init__(self, model: Any, tokenizer: Any, preparation: Preparation) -> None:
        self.model, self.tokenizer, self.preparation = model, tokenizer, preparation

    def images(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Unit vectors [B, width], one a picture."""
        pixels = torch.cat([self.preparation(picture, self.model.device) for picture in pictures])
        return _unit(self.model.get_image_features(pixel_values=pixels))

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [B, width], one a text. What is longer than the encoder reads is cut."""
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        return _unit(self.model.get_text_features(input_ids=tokens.input_ids.to(self.model.device)))

    def scores(self, pictures: Sequence[Picture], texts: Sequence[str]) -> list[float]:
        """Cosine of each picture and its text, -1..1."""
        together = (self.images(pictures) * self.texts(texts)).sum(1)
        return [float(value) for value in together]


def load_scorer(folder: Path, *, device: str = "cpu") -> Scorer:
    """The scorer in `folder`, in float32. Raises ModelError, one sentence about what is not right with it."""
    preparation = read_preparation(folder)
    try:
        with quiet_libraries():
            # Without `output_loading_info` a missing tensor would only be logged, and filled with random numbers.
            model, info = transformers.CLIPModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelError(cannot_be_loaded(folder, error)) from error
    if wrong := sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"]))):
        raise ModelError(f"The weights in {folder} lack {len(wrong)} tensors, e.g. {wrong[0]}; {AGAIN}.")
    if preparation.side != model.config.vision_config.image_size:
        raise ModelError(f"{folder / PREPARATION} makes pictures of another size than the network sees; {AGAIN}.")
    return Scorer(model.to(device).eval().requires_grad_(False), tokenizer, preparation)


def _unit(features: Any) -> torch.Tensor:
    return F.normalize(features.pooler_output, dim=1)
