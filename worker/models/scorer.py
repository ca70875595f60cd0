"""A scorer in memory: how well a text fits a picture (CLIP: Radford et al. 2021, arXiv 2103.00020; SigLIP: Zhai et al.
2023, arXiv 2303.15343).

Knows the networks of transformers' CLIPModel and SiglipModel. Loads safetensors and local files only, after
scorer_judge.py found nothing wrong. Knows no requests, and no picture's file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from worker.models.errors import ModelError
from worker.models.place import Place, place_of
from worker.models.preparation import Preparation
from worker.models.quiet import quiet_libraries
from worker.models.scorer_judge import judge_scorer
from worker.models.scorer_parts import load_network, preparation_of, text_config
from worker.models.scorer_texts import TextReader, reader_of
from worker.models.shapes import cannot_be_loaded

log = structlog.get_logger()

Picture = NDArray[np.uint8]
"""RGB, [H, W, 3], of any size."""


class Scorer:
    """A loaded CLIP or SigLIP. For any thread."""

    def __init__(
        self, model: Any, reader: TextReader, preparation: Preparation, *, sha256: str = "", name: str = ""
    ) -> None:
        self.model, self.preparation = model, preparation
        self.name = name
        self.family = type(model).__name__
        """Class in transformers' words, e.g. CLIPModel."""
        self.sha256 = sha256
        """Over the hashes of all its files, as a drawing model's: which weights made a vector."""
        self.logit_scale = float(model.logit_scale.float().exp())
        """What cosines are multiplied by before a probability is made of them: a learned temperature's inverse."""
        bias = getattr(model, "logit_bias", None)
        self.logit_bias: float | None = None if bias is None else float(bias)
        """Added after that, by models whose probabilities are sigmoids; None: softmax."""
        self._reader = reader

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def dimensions(self) -> int:
        config = self.model.config
        if self.family == "CLIPModel":
            return int(config.projection_dim)
        return int(config.text_config.projection_size or config.text_config.hidden_size)

    @property
    def image_size(self) -> int:
        """Pixels of the square that the network sees."""
        return self.preparation.side

    @property
    def max_tokens(self) -> int:
        """That are read of a text, with those that mark start and end."""
        return self._reader.length

    @property
    def weights_bytes(self) -> float:
        return float(sum(each.nbytes for each in self.model.parameters()))

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, start and end included: also those that are not read."""
        return self._reader.count(texts)

    def image_features(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Unit vectors [B, dimensions], float32, one a picture."""
        # Copied, since torch warns of arrays that may not be written to, as Pillow's are.
        # One after the other: sixteen of 16 megapixels would be 800 MB on the device at once.
        device = self.model.device
        prepared = [self.preparation(torch.from_numpy(np.array(picture)).to(device)) for picture in pictures]
        return self.features_of_prepared(torch.stack(prepared))

    def features_on_device(self, pictures: torch.Tensor) -> torch.Tensor:
        """The same of pictures of one size, uint8 [B, H, W, 3], without a word to the host."""
        return self.features_of_prepared(self.preparation(pictures))

    def features_of_prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same of what the network sees, float32 [B, 3, side, side]."""
        with torch.inference_mode():
            return _unit(self.model.get_image_features(pixel_values=pixels.to(self.model.dtype)))

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [B, dimensions], float32, one a text. What is longer than the encoder reads is cut."""
        ids = self._reader.ids(texts).to(self.model.device)
        with torch.inference_mode():
            return _unit(self.model.get_text_features(input_ids=ids))

    def probabilities(self, cosines: torch.Tensor) -> torch.Tensor:
        """Of cosines [..., texts]. CLIP has learnt which text of several is a picture's: they add up to 1 (softmax, the
        paper's section 3.1.2). SigLIP has learnt of each text by itself whether it is the picture's: they need not add
        up to anything (sigmoid, the paper's equation 2)."""
        logits = cosines * self.logit_scale
        return logits.softmax(-1) if self.logit_bias is None else (logits + self.logit_bias).sigmoid()

    def scores(self, pictures: Sequence[Picture], texts: Sequence[str]) -> list[float]:
        """Cosine of each picture and its text, -1..1."""
        together = (self.image_features(pictures) * self.text_features(texts)).sum(1)
        return [float(value) for value in together]


def load_scorer(
    folder: Path, *, name: str | None = None, device: str = "cpu", dtype: torch.dtype | str = torch.float32
) -> Scorer:
    """The scorer in `folder`. `device` and `dtype` are as a drawing model's, except that bfloat16 becomes float32: its
    cosines would be off by a hundredth. Raises ModelError, one sentence for each thing that is not right with it."""
    place = place_of(device, dtype)
    kept = Place(place.device, torch.float16 if place.dtype == torch.float16 else torch.float32)
    verdict = judge_scorer(Path(folder), dtype=kept.dtype_name, rooms=kept.rooms())
    source = verdict.folder
    if verdict.faults or source is None:
        raise ModelError(*verdict.faults)
    for note in verdict.notes:
        log.warning("about the scorer", note=note)
    source.check_hashes()
    try:
        with quiet_libraries():
            model = load_network(source, kept.dtype).to(kept.device).eval().requires_grad_(False)
            tower = text_config(model)
            reader = reader_of(source, length=tower.max_position_embeddings, vocabulary=tower.vocab_size)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(cannot_be_loaded(folder, error)) from error
    return Scorer(model, reader, preparation_of(source), sha256=source.sha256, name=name or source.name)


def _unit(features: Any) -> torch.Tensor:
    return F.normalize(features.pooler_output.float(), dim=1)
