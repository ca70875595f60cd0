"""Batch jobs that make room: put aside while interactive ones need their seats, and taken up again where they stood.

Knows which jobs can wait, how often and since when each was put aside, and what it goes on from. Refuses to know how a
snapshot is made, and who claims.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from worker.attempts import Attempts
from worker.engine.events import EngineEvent, Failed, Finished, Parked, Started, Stopped
from worker.engine.snapshot import Snapshot

log = structlog.get_logger()

MOST_TIMES = 16
"""A batch job is put aside so often at most, then it keeps its seats. Each time its prompt is encoded again. One that
cannot be kept as it stands is put aside once: it starts over."""


class Engine(Protocol):
    """What is asked of the engine."""

    @property
    def missing_seats(self) -> int: ...
    def seats_of(self, request_id: str, /) -> int: ...
    def park(self, request_id: str, /) -> None: ...


@dataclass(slots=True)
class _BatchJob:
    """`has_begun`: the engine said that it started. `is_leaving`: the engine was asked to let it go. `since`: when it
    left; None while it is in the engine, or on its way there."""

    seats: int
    has_begun: bool = False
    times: int = 0
    is_leaving: bool = False
    since: float | None = None
    snapshot: Snapshot | None = None

    @property
    def can_leave(self) -> bool:
        return not self.is_leaving and self.since is None and self.times < MOST_TIMES


class Parking:
    """By the tokens of attempts. Thread-safe.

    `longest`: seconds after which a job that was put aside has the next seat that is free, before any interactive one;
    0: none is ever put aside. `put_aside` hears of each that was; `keep` has what it goes on from, for others if this
    worker dies.
    """

    def __init__(
        self,
        engine: Engine,
        attempts: Attempts,
        *,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
        put_aside: Callable[[str], None] = lambda token: None,
        keep: Callable[[str, Snapshot], None] | None = None,
    ) -> None:
        self._engine = engine
        self._attempts = attempts
        self._longest = longest
        self._clock = clock
        self._put_aside, self._keep = put_aside, keep
        self._lock = threading.Lock()
        self._jobs: dict[str, _BatchJob] = {}

    @property
    def waiting(self) -> int:
        """Seats that those want that were put aside."""
        with self._lock:
            return sum(job.seats for job in self._jobs.values() if job.since is not None)

    @property
    def is_overdue(self) -> bool:
        """Somebody was put aside for long enough."""
        with self._lock:
            since = (job.since for job in self._jobs.values() if job.since is not None)
            return self._clock() - min(since, default=self._clock()) >= self._longest > 0

    @property
    def seats_to_make(self) -> int:
        """Seats that could be made for interactive jobs."""
        with self._lock:
            return sum(seats for _, _, seats in self._able())

    def seated(self, token: str, seats: int) -> None:
        """A batch job is handed to the engine: for the first time, or to go on."""
        with self._lock:
            self._jobs.setdefault(token, _BatchJob(seats))
            # Of some the engine has never heard: they ended on their way back.
            self._jobs = {each: job for each, job in self._jobs.items() if self._attempts.get(each) is not None}

    def make_room(self) -> None:
        """The engine has an interactive job more. Those go that went the fewest times, the latest comer first.

        It has it already: of two that come at once, each sees the seats that the other one takes."""
        with self._lock:
            for token, job, _ in sorted(self._able(), key=lambda each: each[1].times):
                if not self._engine.missing_seats:
                    return
                job.is_leaving = True
                self._engine.park(token)

    def hear(self, events: Sequence[EngineEvent]) -> list[EngineEvent]:
        """What the engine said, without the jobs that leave it for a while: to everybody else they go on."""
        return [event for event in events if not self._is_ours(event)]

    def _is_ours(self, event: EngineEvent) -> bool:
        if isinstance(event, Started):
            return self._comes_back(event)
        if isinstance(event, Parked):
            return self._is_aside(event)
        if isinstance(event, Finished | Failed | Stopped):
            with self._lock:
                self._jobs.pop(event.request_id, None)
        return False

    def _comes_back(self, started: Started) -> bool:
        with self._lock:
            job = self._jobs.get(started.request_id)
            if job is None:
                return False
            had_begun, job.has_begun = job.has_begun, True
            return had_begun

    def _is_aside(self, parked: Parked) -> bool:
        token, snapshot = parked.request_id, parked.snapshot
        with self._lock:
            job, attempt = self._jobs.get(token), self._attempts.get(token)
            if job is None or attempt is None or attempt.stop is not None:
                self._jobs.pop(token, None)
                return False
            starts_over = snapshot is None and parked.work.evaluations > 0
            job.times = MOST_TIMES if starts_over else job.times + 1
            job.is_leaving, job.since, job.snapshot = False, self._clock(), snapshot
            attempt.spent += parked.work
        log.info("put aside for an interactive job", job_id=attempt.claim.id, starts_over=starts_over)
        self._put_aside(token)
        if snapshot is not None and self._keep is not None:
            self._keep(token, snapshot)
        return True

    def give_up(self, token: str) -> Parked | None:
        """A job that is put aside is not to go on here: what it has left the engine with. None if it is not put aside:
        the engine has it, or it is on its way there, or nobody knows it."""
        with self._lock:
            job = self._jobs.get(token)
            if job is None or job.since is None:
                return None
            del self._jobs[token]
            return Parked(token, job.snapshot)

    def next(self) -> tuple[str, Snapshot | None] | None:
        """The job that goes on when a seat is free, and from where: of those that were put aside the first. None
        without any. It is put aside no longer."""
        with self._lock:
            aside = [(job.since, token, job) for token, job in self._jobs.items() if job.since is not None]
            if not aside:
                return None
            _, token, job = min(aside, key=lambda each: each[0])
            snapshot, job.since, job.snapshot = job.snapshot, None, None
            return token, snapshot

    def _able(self) -> list[tuple[str, _BatchJob, int]]:
        """Those that can leave the engine, and the seats that each would leave; the latest comer first."""
        able = [(token, job) for token, job in reversed(self._jobs.items()) if job.can_leave and self._longest]
        seats = [(token, job, self._engine.seats_of(token)) for token, job in able]
        return [each for each in seats if each[2]]
