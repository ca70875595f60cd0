"""Whose the device's time is: what each stage took for a job, and how each step of the engine is divided among jobs.

Knows who took part in what, and how long that took. Refuses to know what is done with the shares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from app.contract.messages.usage import Work
from worker.engine.events import StageName
from worker.engine.sample import Job, Sample


class DeviceTime:
    """`total` is what was divided since the start. For the engine's thread; `total` may be read by any.

    A job's share of a step is its part of what was measured in it, of the whole step: what lies between (seating,
    looks, transfers) is everybody's by the same measure. On a GPU the host measures how long it waits for the device.
    """

    def __init__(self, total: Work, clock: Callable[[], float]) -> None:
        self._total = total
        self._clock = clock
        self._parts: dict[Job, float] = {}

    def spent(self, stage: StageName, parts: Sequence[tuple[Job, int]], *, since: float) -> None:
        """These jobs were worked for together since then: how large a part is whose, at least 1 each."""
        seconds, whole = self._clock() - since, sum(part for _, part in parts)
        for job in dict.fromkeys(job for job, _ in parts):
            job.seconds[stage] += seconds
        for job, part in parts:
            self._parts[job] = self._parts.get(job, 0.0) + seconds * part / whole

    def decoded(self, samples: Sequence[Sample], *, since: float) -> None:
        """These were decoded together."""
        self.spent("decode", [(sample.job, 1) for sample in samples], since=since)

    def divide(self, *, since: float, ended: Collection[str]) -> None:
        """The step that began then is over. `ended` are the requests that it ended: who heard of its end before can be
        told nothing more, and others bear what was still to be done for it."""
        parts, self._parts = self._parts, {}
        owed = {job: part for job, part in parts.items() if not job.is_terminal or job.request.id in ended}
        seconds, whole = self._clock() - since, sum(owed.values())
        if whole <= 0:
            return
        for job, part in owed.items():
            job.work.device_seconds += seconds * part / whole
        self._total.device_seconds += seconds
