"""How well pictures fit what their requests expect: what the engine is handed as its judge.

Knows the scorer and the words of requests. Refuses to know which pictures are kept: the engine's selection.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from app.contract.messages.prompt_syntax import words_read
from worker.engine.request import Request
from worker.models.scorer import Scorer
from worker.models.text_vectors import TextVectors

NOTHING = ""
"""What a text is compared with, where probabilities are among several: a softmax over one text is always 1."""


class Expectations:
    """Of requests that are drawn beside a scorer. In the engine's thread."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._texts = TextVectors(scorer.text_features)

    def __call__(self, pictures: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """Score and probability of each of `pictures`, uint8 [B, H, W, 3]: float32 [B, 2] on their device.

        The score is the mean cosine with what is expected, the probability that of the text that fits worst.
        """
        images = self._scorer.features_on_device(pictures)
        return torch.stack([self._verdict(image, expected(each)) for image, each in zip(images, requests, strict=True)])

    def describe(self, request: Request) -> Mapping[str, Any]:
        scorer = self._scorer
        return {"scorer": scorer.name, "scorer_sha256": scorer.sha256, "texts": [*expected(request)]}

    def rehearse(self, pictures: torch.Tensor) -> None:
        self._of_texts([NOTHING])
        self._scorer.features_on_device(pictures)

    def _verdict(self, image: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        cosines = self._of_texts(texts) @ image
        among = cosines[:, None]
        if self._scorer.logit_bias is None:
            among = torch.cat([among, (self._of_texts([NOTHING]) @ image).expand(len(texts), 1)], dim=1)
        return torch.stack([cosines.mean(), self._scorer.probabilities(among)[:, 0].amin()])

    def _of_texts(self, texts: Sequence[str]) -> torch.Tensor:
        known = self._texts.of(texts)
        return torch.stack([known[text] for text in texts])


def expected(request: Request) -> Sequence[str]:
    """The words that the pictures of a request are to fit."""
    return request.expect or (words_read(request.prompt, request.prompt_syntax),)
