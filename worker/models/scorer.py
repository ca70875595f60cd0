"""A CLIP in memory: how well a text fits a picture (Radford et al. 2021, arXiv 2103.00020).

Knows a folder in the layout of transformers' CLIPModel, and prepares pictures as its preprocessor_config.json says.
Loads safetensors and local files only. Knows no requests, and no picture's file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray

from worker.models.errors import ModelError
from worker.models.preparation import PREPARATION, Preparation, read_preparation
from worker.models.quiet import quiet_libraries
from worker.models.shapes import AGAIN, cannot_be_loaded

Picture = NDArray[np.uint8]
"""RGB, [H, W, 3], of any size."""


class Scorer:
    """A loaded CLIP. One thread at a time: the tokenizer's padding is state that all its callers share."""

    def __init__(self, model: Any, tokenizer: Any, preparation: Preparation) -> None:
        self.model, self.tokenizer, self.preparation = model, tokenizer, preparation

    def images(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Unit vectors [B, width], one a picture."""
        # Copied, since torch warns of arrays that may not be written to, as Pillow's are.
        tensors = [torch.from_numpy(np.array(picture)).to(self.model.device) for picture in pictures]
        pixels = torch.cat([self.preparation(tensor) for tensor in tensors])
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
