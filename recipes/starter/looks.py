"""What networks see in pictures: the name of a thing, and how well a text fits.

Knows the judge and the scorer; pictures are uint8 [H, W, 3], of any size. A picture that is not square is cut to its
middle for the judge, which was trained on squares, and squeezed for the scorer, as CLIP's own preparation would do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray

from recipes.starter import tokens
from recipes.starter.captions import noun_caption
from recipes.starter.mistakes import said
from recipes.starter.plan import Plan
from recipes.starter.stream import NATIVE, tokenise
from recipes.starter.train_judges import MISTAKES, load_judge

Picture = NDArray[np.uint8]


class Scorer:
    """A small CLIP from its folder."""

    def __init__(self, folder: Path) -> None:
        model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokens.load(folder)

    def images(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Unit vectors [B, width], one a picture."""
        pixels = torch.cat([prepare(picture, cut=False) for picture in pictures]) * 2 - 1
        return F.normalize(embedding(self.model.get_image_features(pixel_values=pixels)), dim=1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [B, width], one a text."""
        ids = tokenise(self.tokenizer, texts)
        return F.normalize(embedding(self.model.get_text_features(input_ids=ids)), dim=1)

    def scores(self, pictures: Sequence[Picture], texts: Sequence[str]) -> list[float]:
        """Cosine of each picture and its text, -1..1."""
        together = (self.images(pictures) * self.texts(texts)).sum(1)
        return [float(value) for value in together]


class Looks:
    """Judge and scorer of a work folder."""

    def __init__(self, work: Path, objects: Sequence[str]) -> None:
        """`objects` are the names that may be guessed."""
        self.judge, self.names = load_judge(work / "judge.safetensors")
        self.objects = tuple(objects)
        self.scorer = Scorer(work / "scorer")

    def objects_by_judge(self, pictures: Sequence[Picture]) -> list[str]:
        """The likeliest name of each picture's thing."""
        allowed = [self.names.index(name) for name in self.objects]
        logits = self.judge(torch.cat([prepare(picture, cut=True) for picture in pictures]))[:, allowed]
        return [self.objects[index] for index in logits.argmax(1).tolist()]

    def objects_by_scorer(self, pictures: Sequence[Picture], plans: Sequence[Plan]) -> list[str]:
        """The object whose name makes the best caption of each picture, all else as planned."""
        images = self.scorer.images(pictures)
        guesses = []
        for image, plan in zip(images, plans, strict=True):
            texts = self.scorer.texts([noun_caption(plan, name) for name in self.objects])
            guesses.append(self.objects[int((texts @ image).argmax())])
        return guesses

    def told_apart(self, pictures: Sequence[Picture], plans: Sequence[Plan]) -> list[bool]:
        """Whether the scorer prefers each picture's caption to MISTAKES that are nearly true."""
        chance = random.Random(0)
        passed = []
        for image, plan in zip(self.scorer.images(pictures), plans, strict=True):
            true, wrong = said(chance, plan, self.objects, MISTAKES)
            passed.append(int((self.scorer.texts([true, *wrong]) @ image).argmax()) == 0)
        return passed


def embedding(features: Any) -> torch.Tensor:
    """transformers 5 answers with an output object where transformers 4 had the tensor."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def prepare(picture: Picture, *, cut: bool) -> torch.Tensor:
    """Float [1, 3, NATIVE, NATIVE] in 0..1."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    height, width = pixels.shape[-2:]
    if cut:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[..., top : top + side, left : left + side]
    if pixels.shape[-2:] == (NATIVE, NATIVE):
        return pixels
    return F.interpolate(pixels, (NATIVE, NATIVE), mode="bilinear", antialias=True, align_corners=False)
