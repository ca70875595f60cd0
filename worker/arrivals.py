"""Claimed jobs on their way into the engine: those that name pictures wait until these are here.

Knows who is under way, and that nobody is let in for whom there is no seat. Refuses to know how pictures are read, and
what is said of a job that never began.
"""

from __future__ import annotations

import threading
from typing import Protocol

from app.contract.messages.card import Safety
from app.contract.redis.ownership import Claim
from worker.attempts import Attempt, Attempts
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot
from worker.fetching import Fetching, Pictures
from worker.reporter import Reporter
from worker.safety import watched
from worker.snapshots import Snapshots


class Engine(Protocol):
    """What arrivals ask of the engine."""

    @property
    def free_seats(self) -> int: ...
    def submit(self, request: Request, snapshot: Snapshot | None, /) -> None: ...
    def cancel(self, request_id: str, /) -> None: ...
    def park(self, request_id: str, /) -> None: ...


class Questions(Protocol):
    """Where a claimed job goes that draws nothing."""

    @property
    def free_seats(self) -> int: ...

    def begin(self, claim: Claim, /) -> None: ...


class Arrivals:
    """Between the claim and the engine. Any thread may call."""

    def __init__(
        self,
        engine: Engine,
        fetching: Fetching,
        attempts: Attempts,
        reporter: Reporter,
        safety: Safety = "off",
        questions: Questions | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        """`questions` takes in those that are asked of the model that draws; `snapshots` has what jobs go on from."""
        self._engine = engine
        self._fetching = fetching
        self._attempts = attempts
        self._reporter = reporter
        self._safety: Safety = safety
        self._questions = questions
        self._snapshots = snapshots
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}

    @property
    def free_seats(self) -> int:
        """Of the engine, that nobody under way has a claim to; none while too many questions wait, since nobody knows
        beforehand which kind the next job is."""
        if self._questions is not None and not self._questions.free_seats:
            return 0
        with self._lock:
            taken = sum(self._under_way.values())
        return max(0, self._engine.free_seats - taken)

    def begin(self, claim: Claim) -> None:
        """Hand a claimed job to the engine, which calls it by its token: at once, or when its pictures are here and
        what an earlier attempt has left."""
        attempt = self._attempts.get(claim.token) or Attempt(claim)
        if claim.question is not None:
            if self._questions is None:
                self._reporter.refuse(claim, "This model only draws: its worker answers no questions.")
            else:
                self._questions.begin(claim)
            return
        if not claim.pictures and (claim.attempt == 1 or self._snapshots is None):
            self._submit(attempt, {})
            return
        with self._lock:
            self._under_way[claim.token] = claim.spec.drawn
        self._fetching.bring(attempt, self._submit, over=lambda: self._arrived(claim.token))

    def cancel(self, token: str) -> None:
        """Stop a job in the engine. One that is under way sees its attempt's stop by itself."""
        self._engine.cancel(token)

    def park(self, token: str) -> None:
        """The same, for one that is to go on elsewhere."""
        self._engine.park(token)

    def _arrived(self, token: str) -> None:
        with self._lock:
            del self._under_way[token]

    def _submit(self, attempt: Attempt, pictures: Pictures) -> None:
        claim = attempt.claim
        try:
            request = Request.of(claim.token, watched(claim.spec, self._safety), pictures)
        except ValueError as error:
            self._reporter.refuse(claim, str(error))
            return
        self._engine.submit(request, self._snapshots.find(claim) if self._snapshots is not None else None)
        # Whoever stopped it while it was under way spoke to an engine that did not know it yet.
        if attempt.stop is not None:
            self._engine.cancel(claim.token)
