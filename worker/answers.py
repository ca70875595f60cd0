"""What a scorer says to questions: cosines, probabilities and vectors, of many questions in few forwards.

Vectors of texts are remembered. Knows questions and their results, and the scorer; refuses to know whose they are.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from app.contract.messages.questions import EmbedResult, EmbedSpec, Question, Result, ScoreResult, ScoreSpec
from worker.engine.errors import EngineError, GenerationFailed, NumericalError, device_watch
from worker.engine.stage import Stage, Stages
from worker.engine.transfer import current_device
from worker.families.inputs import on_white
from worker.models.scorer import Scorer
from worker.models.text_vectors import TextVectors

PICTURES_AT_ONCE = 16
TEXTS_AT_ONCE = 64
"""Of one forward: a turn on the device must not keep a drawing waiting for longer than a step or two."""

DIGITS = 7
"""Decimals of what is answered: float32 has no more."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question with the pixels of its pictures: uint8 [H, W, 3 or 4], by the sha256 of each file."""

    question: Question
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to say to it."""

    result: Result
    warnings: list[str]


class Answers:
    """One scorer's. One thread at a time. `turn` is entered for each forward."""

    def __init__(self, scorer: Scorer, *, turn: AbstractContextManager[object]) -> None:
        self._scorer = scorer
        self._turn = turn
        self._texts = TextVectors(partial(self._in_parts, size=TEXTS_AT_ONCE, forward=scorer.text_features))
        self._stages = Stages()

    @property
    def stage(self) -> Stage | None:
        """The forward that it is at, for a watchdog."""
        return self._stages.current

    def find(self, questions: Sequence[Asked]) -> list[Found | EngineError]:
        """An answer to each. Raises DeviceLost, and what the network raises."""
        words = dict.fromkeys(text for asked in questions for text in asked.question.words)
        pictures = {sha256: pixels for asked in questions for sha256, pixels in asked.pictures.items()}
        texts = self._texts.of(list(words))
        images = dict(zip(pictures, self._of_pictures([*pictures.values()]), strict=True))
        return [self._answer(asked.question, texts, images) for asked in questions]

    def _answer(
        self, question: Question, texts: Mapping[str, torch.Tensor], images: Mapping[str, torch.Tensor]
    ) -> Found | EngineError:
        vectors = [texts[each] for each in question.words] + [images[each.sha256] for each in question.pictures]
        if not all(bool(torch.isfinite(vector).all()) for vector in vectors):
            return NumericalError("The scorer's numbers overflowed at one of the pictures or texts.")
        counts = self._scorer.tokens(question.words) if question.words else []
        if isinstance(question, ScoreSpec):
            result: Result = self._score(question, texts, images)
        elif question.space == "joint":
            result = self._embed(question, texts, images, counts)
        else:
            return GenerationFailed("This model has no prior that takes texts among pictures.")
        return Found(result, self._cut(counts))

    def _score(
        self, question: ScoreSpec, texts: Mapping[str, torch.Tensor], images: Mapping[str, torch.Tensor]
    ) -> ScoreResult:
        scorer = self._scorer
        rows = torch.stack([images[each.sha256] for each in question.images])
        cosine = rows @ torch.stack([texts[each] for each in question.texts]).T
        return ScoreResult(
            model_sha256=scorer.sha256,
            cosine=_rounded(cosine),
            probability=_rounded(scorer.probabilities(cosine)),
            logit_scale=scorer.logit_scale,
            logit_bias=scorer.logit_bias,
        )

    def _embed(
        self,
        question: EmbedSpec,
        texts: Mapping[str, torch.Tensor],
        images: Mapping[str, torch.Tensor],
        counts: Sequence[int],
    ) -> EmbedResult:
        vectors = [texts[each] if isinstance(each, str) else images[each.sha256] for each in question.input]
        return EmbedResult(
            model_sha256=self._scorer.sha256,
            dimensions=self._scorer.dimensions,
            vectors=tuple(in_base64(vector) for vector in vectors),
            tokens=sum(min(count, self._scorer.max_tokens) for count in counts),
        )

    def _cut(self, counts: Sequence[int]) -> list[str]:
        most = self._scorer.max_tokens
        return [
            f"Of text {at}, the first {most} of {count} tokens were read."
            for at, count in enumerate(counts)
            if count > most
        ]

    def _of_pictures(self, pictures: Sequence[np.ndarray]) -> list[torch.Tensor]:
        shown = [np.asarray(on_white(each)) for each in pictures]
        return self._in_parts(shown, PICTURES_AT_ONCE, self._scorer.image_features)

    def _in_parts(
        self, items: Sequence[T], size: int, forward: Callable[[Sequence[T]], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Unit vectors, float32 on the CPU, one for each item."""
        vectors: list[torch.Tensor] = []
        for start in range(0, len(items), size):
            with self._at_work():
                vectors += forward(items[start : start + size]).float().cpu()
        return vectors

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        on_device = current_device(self._scorer.device)
        with self._turn, self._stages.at("score"), on_device, torch.inference_mode(), device_watch():
            yield


def in_base64(vector: torch.Tensor) -> str:
    """Float32 numbers, little endian, as OpenAI's clients read them."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()


def _rounded(table: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value, DIGITS) for value in row) for row in table.tolist())
