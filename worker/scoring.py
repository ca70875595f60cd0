"""Questions about pictures and texts, from their claim to their answer: they take no seat, and wait for no drawing.

What has come meanwhile is answered together. Each forward has a turn of its own on the device, between two steps of the
engine. Knows claims, turns and the reporter; how a question is answered is worker/answers.py's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from app.contract.messages.questions import Question
from app.contract.messages.usage import Work
from app.contract.redis.ownership import Claim
from worker.answers import Asked, Found
from worker.attempts import Answered, Attempt, Attempts
from worker.engine.errors import EngineError
from worker.engine.events import Failed, Stopped
from worker.engine.isolate import isolate
from worker.engine.stage import Stage
from worker.fetching import Fetching, Pictures
from worker.reporter import Reporter
from worker.turns import OwnTurns

log = structlog.get_logger()

SEATS = 32
"""Pictures that are waited for or looked at, and questions without any: 16 megapixels each are 1.5 GB of memory."""


class Answering(Protocol):
    """What finds answers; worker/answers.py has a scorer's."""

    @property
    def stage(self) -> Stage | None: ...
    def find(self, questions: Sequence[Asked], /) -> list[Found | EngineError]: ...


class Scoring:
    """Of one `model`. `run` is for a thread of its own, everything else for any. `turns` are those of `answers`.
    `count` hears how each question ended (succeeded, failed or stopped), and how much of the device's time it took."""

    def __init__(
        self,
        answers: Answering,
        fetching: Fetching,
        attempts: Attempts,
        reporter: Reporter,
        *,
        model: str,
        turns: OwnTurns,
        count: Callable[[Question, str, float], None] | None = None,
    ) -> None:
        self._answers = answers
        self._fetching = fetching
        self._attempts = attempts
        self._reporter = reporter
        self._model = model
        self._turns = turns
        self._count = count or (lambda question, outcome, seconds: None)
        self._changed = threading.Condition()
        self._ready: list[tuple[Attempt, Asked]] = []

    @property
    def free_seats(self) -> int:
        """Room for so many more; a question that is larger than all of it comes in when there is some."""
        asked = (claim.question for claim in self._attempts.claims() if claim.spec.model == self._model)
        return max(0, SEATS - sum(max(1, len(question.pictures)) for question in asked if question is not None))

    @property
    def seats_for_interactive(self) -> int:
        """No question makes room for another: each takes milliseconds."""
        return self.free_seats

    def go_on(self) -> None:
        """None was put aside."""

    @property
    def stage(self) -> Stage | None:
        """The forward that it is at, for a watchdog."""
        return self._answers.stage

    def begin(self, claim: Claim) -> None:
        """Take in a claimed job: at once, or when its pictures are here."""
        attempt = self._attempts.get(claim.token) or Attempt(claim)
        if claim.question is None:
            self._reporter.refuse(claim, "This model draws nothing.")
            return
        if claim.question.pictures:
            question = claim.question
            self._fetching.bring(attempt, self._take, missed=lambda: self._count_end(attempt, question, "failed", 0.0))
        else:
            self._take(attempt, {})

    def cancel(self, token: str) -> None:
        """Its attempt says so already: it is looked at before and after a forward."""

    def park(self, token: str) -> None:
        """The same: an answer takes milliseconds, and is begun anew."""

    def run(self, stopped: threading.Event) -> None:
        """Answer until `stopped`. Raises DeviceLost."""
        while not stopped.is_set():
            batch = self._next(0.5)
            if batch:
                self._answer(batch)

    def _take(self, attempt: Attempt, pictures: Pictures) -> None:
        question = attempt.claim.question
        assert question is not None
        with self._changed:
            self._ready.append((attempt, Asked(question, pictures)))
            self._changed.notify_all()

    def _next(self, timeout: float) -> list[tuple[Attempt, Asked]]:
        with self._changed:
            self._changed.wait_for(lambda: self._ready, timeout)
            batch, self._ready = self._ready, []
            return batch

    def _answer(self, batch: list[tuple[Attempt, Asked]]) -> None:
        stopped = [each for each in batch if each[0].stop is not None]
        for attempt, asked in stopped:
            self._end(attempt, asked.question, None, 0.0, Work())
        wanted = [each for each in batch if each not in stopped]
        began, before = time.monotonic(), self._turns.seconds
        found = isolate([asked for _, asked in wanted], self._answers.find, name="score")
        spent, whole = self._turns.seconds - before, sum(_size(asked.question) for _, asked in wanted)
        for (attempt, asked), each in zip(wanted, found, strict=True):
            own = Work(device_seconds=spent * _size(asked.question) / whole)
            self._end(attempt, asked.question, each, time.monotonic() - began, own)

    def _end(
        self, attempt: Attempt, question: Question, found: Found | EngineError | None, seconds: float, work: Work
    ) -> None:
        """With what was found; None where nobody has looked, because it was stopped before."""
        token = attempt.claim.token
        outcome = "failed" if isinstance(found, EngineError) else "succeeded"
        self._count_end(attempt, question, outcome, work.device_seconds)
        if found is None or attempt.stop is not None:
            self._reporter.handle(Stopped(token, work))
        elif isinstance(found, EngineError):
            self._reporter.handle(Failed(token, found, work=work))
        else:
            self._reporter.handle(Answered(token, found.result, found.warnings, seconds, work))

    def _count_end(self, attempt: Attempt, question: Question, outcome: str, seconds: float) -> None:
        self._count(question, outcome if attempt.stop is None else "stopped", seconds)


def _size(question: Question) -> int:
    """Its part of what was looked at together: texts and pictures."""
    return max(1, len(question.words) + len(question.pictures))
