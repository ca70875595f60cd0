"""A CLIP in memory: how well a text fits a picture (Radford et al. 2021, arXiv 2103.00020).

Knows a folder in the layout of transformers' CLIPModel, and prepares pictures as its preprocessor_config.json says.
Loads safetensors and local files only. Knows no requests, and no picture's file format.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray

from worker.models.errors import ModelError
from worker.models.folder import TOKENIZER_FILES, sha256_of
from worker.models.preparation import PREPARATION, Preparation, read_preparation
from worker.models.quiet import quiet_libraries
from worker.models.shapes import AGAIN, cannot_be_loaded

CONFIGURED = ("config.json", PREPARATION, *TOKENIZER_FILES)
"""Files beside the weights that a vector depends on."""

Picture = NDArray[np.uint8]
"""RGB, [H, W, 3], of any size."""


class Scorer:
    """A loaded CLIP. Any thread may call, if one forward at a time is enough for the device."""

    def __init__(self, model: Any, tokenizer: Any, preparation: Preparation, *, sha256: str = "") -> None:
        self.model, self.preparation = model, preparation
        self._tokenizer, self._lock = tokenizer, threading.Lock()
        self.family = type(model).__name__
        """Class in transformers' words, e.g. CLIPModel."""
        self.sha256 = sha256
        """Over the hashes of all its files, as a drawing model's: which weights made a vector."""
        self.dimensions = int(model.config.projection_dim)
        self.logit_scale = float(model.logit_scale.exp())
        """What cosines are multiplied by before the softmax: a learned temperature's inverse."""
        self.logit_bias: float | None = None
        """Added after that, by models whose probabilities are sigmoids (SigLIP); None: softmax."""

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def image_size(self) -> int:
        """Pixels of the square that the network sees."""
        return self.preparation.side

    @property
    def max_tokens(self) -> int:
        """That are read of a text, with the two that mark start and end."""
        return int(self.model.config.text_config.max_position_embeddings)

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, start and end included: also those that are not read."""
        return [len(ids) for ids in self._tokens(texts, truncation=False, padding=False).input_ids]

    def image_features(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Unit vectors [B, dimensions], float32, one a picture."""
        # Copied, since torch warns of arrays that may not be written to, as Pillow's are.
        tensors = [torch.from_numpy(np.array(picture)).to(self.model.device) for picture in pictures]
        pixels = torch.cat([self.preparation(tensor) for tensor in tensors])
        return _unit(self.model.get_image_features(pixel_values=pixels))

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [B, dimensions], float32, one a text. What is longer than the encoder reads is cut."""
        cut = {"padding": "max_length", "truncation": True, "max_length": self.max_tokens, "return_tensors": "pt"}
        tokens = self._tokens(texts, **cut)
        return _unit(self.model.get_text_features(input_ids=tokens.input_ids.to(self.model.device)))

    def _tokens(self, texts: Sequence[str], **options: Any) -> Any:
        # Padding and truncation are state of the tokenizer, which all threads share.
        with self._lock:
            return self._tokenizer(list(texts), **options)

    def scores(self, pictures: Sequence[Picture], texts: Sequence[str]) -> list[float]:
        """Cosine of each picture and its text, -1..1."""
        together = (self.image_features(pictures) * self.text_features(texts)).sum(1)
        return [float(value) for value in together]


def is_scorer(folder: Path) -> bool:
    """Whether the folder is a scorer's rather than a pipeline's, which has an index. Reads no weights."""
    if (folder / "model_index.json").exists():
        return False
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("model_type") == "clip"


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
    model = model.to(device).eval().requires_grad_(False)
    return Scorer(model, tokenizer, preparation, sha256=sha256_of_scorer(folder))


def sha256_of_scorer(folder: Path) -> str:
    """Hash over the sorted `hash  path` lines of every file that a vector depends on. Reads all weights."""
    files = sorted(file for file in folder.iterdir() if file.suffix == ".safetensors" or file.name in CONFIGURED)
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _unit(features: Any) -> torch.Tensor:
    return F.normalize(features.pooler_output, dim=1)
