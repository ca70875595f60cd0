"""What networks see in pictures: the name of a thing, and how well a text fits.

Knows the judge, and asks the scorer as the service would; pictures are uint8 [H, W, 3], of any size. A picture that is
not square is cut to its middle for the judge, which was trained on squares.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from recipes.starter.captions import noun_caption
from recipes.starter.mistakes import said
from recipes.starter.plan import Plan
from recipes.starter.stream import NATIVE
from recipes.starter.train_judges import MISTAKES, load_judge
from worker.models.scorer import Picture, load_scorer


class Looks:
    """Judge and scorer of a work folder."""

    def __init__(self, work: Path, objects: Sequence[str]) -> None:
        """`objects` are the names that may be guessed."""
        self.judge, self.names = load_judge(work / "judge.safetensors")
        self.objects = tuple(objects)
        self.scorer = load_scorer(work / "scorer")

    def objects_by_judge(self, pictures: Sequence[Picture]) -> list[str]:
        """The likeliest name of each picture's thing."""
        allowed = [self.names.index(name) for name in self.objects]
        logits = self.judge(torch.cat([prepare(picture) for picture in pictures]))[:, allowed]
        return [self.objects[index] for index in logits.argmax(1).tolist()]

    def objects_by_scorer(self, pictures: Sequence[Picture], plans: Sequence[Plan]) -> list[str]:
        """The object whose name makes the best caption of each picture, all else as planned."""
        images = self.scorer.image_features(pictures)
        guesses = []
        for image, plan in zip(images, plans, strict=True):
            texts = self.scorer.text_features([noun_caption(plan, name) for name in self.objects])
            guesses.append(self.objects[int((texts @ image).argmax())])
        return guesses

    def told_apart(self, pictures: Sequence[Picture], plans: Sequence[Plan]) -> list[bool]:
        """Whether the scorer prefers each picture's caption to MISTAKES that are nearly true."""
        chance = random.Random(0)
        passed = []
        for image, plan in zip(self.scorer.image_features(pictures), plans, strict=True):
            true, wrong = said(chance, plan, self.objects, MISTAKES)
            passed.append(int((self.scorer.text_features([true, *wrong]) @ image).argmax()) == 0)
        return passed


def prepare(picture: Picture) -> torch.Tensor:
    """The middle of a picture, float [1, 3, NATIVE, NATIVE] in 0..1."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[..., top : top + side, left : left + side]
    if side == NATIVE:
        return pixels
    return F.interpolate(pixels, (NATIVE, NATIVE), mode="bilinear", antialias=True, align_corners=False)
