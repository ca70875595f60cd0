"""When it is time for the next snapshot of a job that is drawn.

Knows how far jobs are, and how long they are expected to take. Refuses to know where snapshots are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.engine.events import EngineEvent, Failed, Finished, Parked, Progress, SnapshotTaken, Started, Stopped
from worker.snapshots import Snapshots

PART = 0.1
"""Of the time that a job is expected to take: so much of it at most lies between two snapshots, and half of that is
lost on average with a worker."""

SOONEST = 0.2
"""Seconds between two snapshots of a job, at least: what is drawn faster is soon drawn again."""


@dataclass(slots=True)
class _Watched:
    """A job that is drawn: when its snapshot was last asked for, how many seconds are to lie between two, whether it
    has come further since the last, and when it was first told to have come how far."""

    since: float
    every: float
    has_moved: bool = False
    first: tuple[float, int] | None = None

    def note(self, progress: Progress, now: float, *, at_most: float) -> None:
        """It has come so far."""
        self.has_moved = True
        if self.first is None:
            self.first = now, progress.step
            return
        then, step = self.first
        whole = (now - then) * progress.steps / (progress.step - step) if progress.step > step else at_most
        self.every = min(at_most, max(SOONEST, PART * whole))


class Cadence:
    """When a snapshot is taken of the jobs of one engine, and of which first: of each as often as the limits say, and
    of a job that does not take long after each PART of it. Listens in the engine's thread."""

    def __init__(self, snapshots: Snapshots, ask: Callable[[str], None]) -> None:
        """`ask` has the engine take one."""
        self._snapshots = snapshots
        self._ask = ask
        self._watched: dict[str, _Watched] = {}

    def stepped(self, events: Sequence[EngineEvent]) -> None:
        """Take the events of one step."""
        now = self._snapshots.clock()
        for event in events:
            self._note(event, now)
        due = [token for token, job in self._watched.items() if job.has_moved and now - job.since >= job.every]
        due = [token for token in due if not self._snapshots.rests(token)]
        due.sort(key=lambda token: self._watched[token].since)
        for token in due[: self._snapshots.room] if due else ():
            self._watched[token].since, self._watched[token].has_moved = now, False
            self._ask(token)

    def _note(self, event: EngineEvent, now: float) -> None:
        token, at_most = event.request_id, self._snapshots.limits.seconds
        if isinstance(event, Started):
            self._watched[token] = _Watched(now, at_most)
        elif isinstance(event, Progress) and token in self._watched:
            self._watched[token].note(event, now, at_most=at_most)
        elif isinstance(event, SnapshotTaken):
            self._snapshots.keep_soon(token, event.snapshot)
        elif isinstance(event, Finished | Failed | Stopped | Parked):
            self._watched.pop(token, None)
