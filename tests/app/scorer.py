"""A scorer for gateways, played by the test."""

from __future__ import annotations

import base64
import struct
import threading
from typing import Any

import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.job import JobError
from app.contract.messages.questions import EmbedResult, EmbedSpec, ScoreResult, ScoreSpec
from app.contract.redis.ownership import Claim, Ownership
from tests.waiting import WAIT_SECONDS

SCORER = "tiny-scorer"


def scorer_card_of(card: ModelCard) -> ModelCard:
    """A scorer's, made of one of a model that draws."""
    facts = {"name": SCORER, "family": "CLIPModel", "sha256": "1" * 64, "tasks": ("score", "embed")}
    return card.model_copy(update={**facts, "embedding_dimensions": 2, "seats": 32})


class ScriptedScorer:
    """A scorer whose first text always fits best, and that answers in a thread until the test is over."""

    def __init__(self, client: redis.Redis, card: ModelCard) -> None:
        self.ownership, self.card = Ownership(client), card
        self.claims: list[Claim] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.fails: JobError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> ScriptedScorer:
        self.ownership.announce(self.card, "s1")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._over.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        while not self._over.wait(0.005):
            claim = self.ownership.claim(self.card.name, "s1")
            if claim is not None:
                self.claims.append(claim)
                assert self.may_answer.wait(WAIT_SECONDS)
                self._end(claim)

    def _end(self, claim: Claim) -> None:
        if self.fails is not None:
            self.ownership.fail(claim, self.fails)
            return
        question = claim.question
        if isinstance(question, ScoreSpec):
            rows, columns = len(question.images), len(question.texts)
            cosine = tuple(tuple(0.5 - 0.1 * column for column in range(columns)) for _ in range(rows))
            likely = ((round(1.1 - 0.1 * columns, 1), *[0.1] * (columns - 1)),) * rows
            result: Any = ScoreResult(model_sha256="1" * 64, cosine=cosine, probability=likely, logit_scale=100.0)
        else:
            assert isinstance(question, EmbedSpec)
            vector = base64.b64encode(struct.pack("<2f", 0.6, 0.8)).decode()
            result = EmbedResult(model_sha256="1" * 64, dimensions=2, vectors=(vector,) * len(question.input), tokens=7)
        self.ownership.answered(claim, result, timings={"score": 0.01}, warnings=["cut"])
