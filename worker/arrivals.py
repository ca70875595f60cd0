"""Claimed jobs on their way into the engine: those that name pictures wait until these are here.

Knows who is under way, and that nobody is let in for whom there is no seat: interactive jobs also where batch jobs can
make room. Refuses to know how pictures are read, and what is said of a job that never began.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from app.contract.messages.card import Safety
from app.contract.redis.ownership import Claim
from worker.attempts import Attempt, Attempts, Stop
from worker.engine.events import EngineEvent, Stopped
from worker.engine.request import Request
from worker.engine.snapshot import Snapshot
from worker.fetching import Fetching, Pictures
from worker.parking import Parking
from worker.reporter import Reporter
from worker.safety import watched
from worker.snapshots import Snapshots


class Engine(Protocol):
    """What arrivals ask of the engine."""

    @property
    def free_seats(self) -> int: ...
    @property
    def missing_seats(self) -> int: ...
    def seats_of(self, request_id: str, /) -> int: ...
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
        parking: Parking | None = None,
    ) -> None:
        """`questions` takes in those that are asked of the model that draws; `snapshots` has what jobs go on from.
        Without `parking` no job makes room."""
        self._engine = engine
        self._fetching = fetching
        self._attempts = attempts
        self._reporter = reporter
        self._safety: Safety = safety
        self._questions = questions
        self._snapshots = snapshots
        self._parking = parking or Parking(engine, attempts, longest=0)
        self._lock = threading.Lock()
        self._under_way: dict[object, int] = {}

    @property
    def free_seats(self) -> int:
        """Of the engine, that nobody has a claim to who is under way or was put aside; none while too many questions
        wait, since nobody knows beforehand which kind the next job is."""
        return self._left_of(self._engine.free_seats - self._parking.waiting)

    @property
    def seats_for_interactive(self) -> int:
        """The same, with those that batch jobs can leave, and those that wait for jobs which were put aside a while
        ago."""
        if self._parking.is_overdue:
            return self.free_seats
        return self._left_of(self._engine.free_seats + self._parking.seats_to_make)

    def _left_of(self, seats: int) -> int:
        if self._questions is not None and not self._questions.free_seats:
            return 0
        with self._lock:
            return max(0, seats - sum(self._under_way.values()))

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
        if self._snapshots is None or claim.attempt == 1:
            self._go(attempt, self._submit)
        else:
            self._go(attempt, self._resume, blocks=True)

    def go_on(self) -> None:
        """Let jobs take the seats that are free, which had been put aside."""
        while self._left_of(self._engine.free_seats) and (following := self._parking.next()) is not None:
            token, snapshot = following
            if (attempt := self._attempts.get(token)) is not None:
                attempt.goes_on_from = snapshot
                self._go(attempt, partial(self._submit, snapshot=snapshot))

    def hear(self, events: Sequence[EngineEvent]) -> list[EngineEvent]:
        """What the engine said, as it concerns everybody else."""
        return self._parking.hear(events)

    def cancel(self, token: str) -> None:
        """Stop a job in the engine, or one that was put aside. One that is under way sees its attempt's stop by
        itself."""
        if self._parking.give_up(token) is None:
            self._engine.cancel(token)
        else:
            self._reporter.handle(Stopped(token))

    def park(self, token: str) -> None:
        """The same, for one that is to go on elsewhere."""
        if (parked := self._parking.give_up(token)) is None:
            self._engine.park(token)
        else:
            self._reporter.handle(parked)

    def _go(self, attempt: Attempt, enter: Callable[[Attempt, Pictures], None], *, blocks: bool = False) -> None:
        """Into the engine: at once, or when its pictures are here, and in a thread that waits for them if `enter`
        blocks."""
        claim = attempt.claim
        if not (claim.pictures or blocks):
            enter(attempt, {})
            return
        # Not by its token: one that was put aside may come back before the thread that brought it first has said so.
        way = object()
        with self._lock:
            self._under_way[way] = claim.spec.drawn
        self._fetching.bring(attempt, enter, over=lambda: self._arrived(way))

    def _arrived(self, way: object) -> None:
        with self._lock:
            del self._under_way[way]

    def _resume(self, attempt: Attempt, pictures: Pictures) -> None:
        """With what an earlier attempt has left."""
        assert self._snapshots is not None
        self._submit(attempt, pictures, self._snapshots.find(attempt.claim))

    def _submit(self, attempt: Attempt, pictures: Pictures, snapshot: Snapshot | None = None) -> None:
        claim = attempt.claim
        try:
            spec = watched(claim.spec, self._safety)
            request = Request.of(claim.token, spec, pictures, priority=claim.urgency.priority)
        except ValueError as error:
            self._reporter.refuse(claim, str(error))
            return
        is_batch = claim.urgency.priority == "batch"
        if is_batch:
            self._parking.seated(claim.token, claim.spec.drawn)
        self._engine.submit(request, snapshot)
        attempt.goes_on_from = None
        # Whoever stopped it while it was under way spoke to an engine that did not know it yet.
        if attempt.stop is Stop.GIVEN_BACK:
            self._engine.park(claim.token)
        elif attempt.stop is not None:
            self._engine.cancel(claim.token)
        if not is_batch:
            self._parking.make_room()
