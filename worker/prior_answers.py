"""What a model that draws from embeddings says to questions about them: vectors of texts and pictures, and where its
prior takes a text to be among pictures.

The drawing model's side of worker/answers.py, behind the same two members. Knows questions and their results; refuses
to know networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.nn import functional

from app.contract.messages.questions import EmbedResult, EmbedSpec
from worker.answers import DIGITS, Asked, Found, in_base64
from worker.engine.errors import EngineError, GenerationFailed, NumericalError, device_watch
from worker.engine.stage import Stage, Stages
from worker.engine.transfer import current_device
from worker.families.embedder import Embedder


class PriorAnswers:
    """One model's. One thread at a time. `turn` is entered for each forward."""

    def __init__(self, embedder: Embedder, *, turn: AbstractContextManager[object]) -> None:
        self._embedder = embedder
        self._turn = turn
        self._stages = Stages()

    @property
    def stage(self) -> Stage | None:
        """The forward that it is at, for a watchdog."""
        return self._stages.current

    def find(self, questions: Sequence[Asked]) -> list[Found | EngineError]:
        """An answer to each. Raises DeviceLost, and what the networks raise."""
        return [self._find(asked) for asked in questions]

    def _find(self, asked: Asked) -> Found | EngineError:
        question, embedder = asked.question, self._embedder
        if not isinstance(question, EmbedSpec):
            return GenerationFailed("This model compares no pictures with texts: ask a scorer.")
        try:
            texts = embedder.texts(question.words, self._at_work) if question.words else []
            pictures = embedder.pictures(asked.pictures, self._at_work)
            own = [text.pooled.float() for text in texts if text.pooled is not None]
            is_joint, seed = question.space == "joint", question.seed or 0
            made = own if is_joint else embedder.among_pictures(texts, seed, self._at_work)
        except EngineError as error:
            return error
        of_texts = iter(made)
        vectors = [next(of_texts) if isinstance(each, str) else pictures[each.sha256] for each in question.input]
        if not all(bool(vector.isfinite().all()) for vector in vectors):
            return NumericalError("The model's numbers overflowed at one of the pictures or texts.")
        result = EmbedResult(
            model_sha256=embedder.sha256,
            dimensions=embedder.dimensions,
            vectors=tuple(in_base64(functional.normalize(vector, dim=0).cpu()) for vector in vectors),
            tokens=sum(text.tokens_read + 2 for text in texts),
            cosine_to_text=None if is_joint else _cosines(made, own),
        )
        return Found(result, [f"Of a text too long, {text.unread!r} was not read." for text in texts if text.unread])

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        on_device = current_device(self._embedder.device)
        with self._turn, self._stages.at("embed"), on_device, torch.inference_mode(), device_watch():
            yield


def _cosines(made: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> tuple[float, ...]:
    return tuple(
        round(float(functional.cosine_similarity(a, b, dim=0)), DIGITS) for a, b in zip(made, own, strict=True)
    )
