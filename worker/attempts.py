"""The attempts this worker owns right now, and why any of them should stop early. Shared by all its threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from app.contract.messages.questions import Result
from app.contract.messages.usage import Work
from app.contract.redis.ownership import Claim
from worker.engine.snapshot import Snapshot
from worker.errors import WorkerError


class Stop(StrEnum):
    """Why an attempt is to end before its pictures are done."""

    CANCELED = "canceled"
    LOST = "lost"
    GIVEN_BACK = "given back"


@dataclass(slots=True)
class Attempt:
    """One claimed job on its way through this process."""

    claim: Claim
    stop: Stop | None = None
    resumed_at_step: int | None = None
    """Evaluations that an earlier attempt has made for it; None before it begins."""
    spent: Work = field(default_factory=Work)
    """What it took before it was put aside. Its last event does not know of it."""
    goes_on_from: Snapshot | None = None
    """How it was put aside, while it is on its way back into the engine, which does not have it yet."""


@dataclass(frozen=True, slots=True)
class NotBegun:
    """A job's last event where the engine never got it: what it needs could not be fetched."""

    request_id: str
    error: WorkerError
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True)
class Answered:
    """A question's last event: it was answered, after so many seconds of looking at what it is about, together with
    others. `work` is its part of what the device did."""

    request_id: str
    result: Result
    warnings: list[str]
    seconds: float
    work: Work = field(default_factory=Work)


class Attempts:
    """Attempts by token, which is also what the engine calls them: after a lost lease, two attempts at one job may meet
    in one process. Every method is atomic."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._attempts: dict[str, Attempt] = {}
        self._freed: Callable[[], None] = lambda: None

    def hear_of_seats(self, freed: Callable[[], None]) -> None:
        """`freed` is called, by any thread, whenever a seat may have become free."""
        self._freed = freed

    def open(self, claim: Claim) -> None:
        with self._lock:
            self._attempts[claim.token] = Attempt(claim)

    def get(self, token: str) -> Attempt | None:
        with self._lock:
            return self._attempts.get(token)

    def close(self, token: str) -> None:
        """The attempt has ended, whatever the end was."""
        with self._changed:
            self._attempts.pop(token, None)
            self._changed.notify_all()
        self._freed()

    def seat_freed(self) -> None:
        """An attempt needs its seat no more, though its last word is not said yet."""
        self._freed()

    def stop(self, token: str, reason: Stop) -> bool:
        """Ask an attempt to end. The first reason stays, but a lost lease outranks all. False for an unknown one."""
        with self._lock:
            attempt = self._attempts.get(token)
            if attempt is None:
                return False
            if attempt.stop is None or reason is Stop.LOST:
                attempt.stop = reason
            return True

    def claims(self) -> list[Claim]:
        with self._lock:
            return [attempt.claim for attempt in self._attempts.values()]

    def wait_until_empty(self, seconds: float) -> bool:
        """True once no attempt is left, False when the time is up first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._attempts, timeout=seconds)
