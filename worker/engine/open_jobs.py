"""The jobs that are open: the part of the engine that any thread may use.

Requests come in here, are called off here, and are waited for here. Knows jobs and the lock around their list. Knows no
seats, no device and no events: whatever happens to a job happens in the engine's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from worker.engine.errors import engine_error
from worker.engine.family import Family, Inputs
from worker.engine.request import Request
from worker.engine.sample import Job
from worker.engine.snapshot import Snapshot
from worker.engine.solvers import Solvers


def opened(
    family: Family, solvers: Solvers, clock: Callable[[], float], request: Request, snapshot: Snapshot | None
) -> Job:
    """The job that a request becomes, while what it needs is made. In the thread that submits, which may take its time
    over pixels. What is wrong with the request is found out when the job is asked for its solvers."""
    try:
        inputs = family.inputs(request)
        compiled = [solvers.factory(schedule) for schedule in family.schedules(request)]
    except Exception as error:
        inputs, compiled = Inputs(), [_refused(error)]
    brought = _brought(family, request)
    return Job(request, submitted_at=clock(), solvers=compiled, inputs=inputs, brought=brought, snapshot=snapshot)


def _brought(family: Family, request: Request) -> Sequence[Future[Any]]:
    try:
        return family.bring(request)
    except Exception as error:
        return [_refused(error)]


def _refused(error: Exception) -> Future[Any]:
    """What is waited for, and ends the request."""
    refused: Future[Any] = Future()
    refused.set_exception(engine_error(error, stage="prepare"))
    return refused


class OpenJobs:
    """From submit until their last event, in the order in which they came. Thread-safe.

    `seats` is how many samples the engine denoises at once. `open` makes a job of a request, in the thread it comes in
    by, and starts to make the solvers of its passes and to bring what it needs; `close` hears of its end.
    """

    def __init__(
        self, seats: int, *, open: Callable[[Request, Snapshot | None], Job], close: Callable[[Request], None]
    ) -> None:
        self._seats = seats
        self._open = open
        self._close = close
        self._changed = threading.Condition()
        self._jobs: list[Job] = []

    def submit(self, request: Request, snapshot: Snapshot | None = None) -> None:
        job = self._open(request, snapshot)
        with self._changed:
            self._jobs.append(job)
        for each in job.awaited:
            each.add_done_callback(lambda _: self._wake())

    def cancel(self, request_id: str) -> None:
        """An id that is not here changes nothing."""
        for job in self._noted(request_id):
            job.is_canceled = True

    def park(self, request_id: str) -> None:
        """The same."""
        for job in self._noted(request_id):
            job.is_to_park = True

    def take_snapshot(self, request_id: str) -> None:
        """The same."""
        for job in self._noted(request_id):
            job.is_to_snapshot = True

    def _noted(self, request_id: str) -> Iterator[Job]:
        """The job of that name, about which something is noted: whoever waits for work hears of it."""
        with self._changed:
            yield from (job for job in self._jobs if job.request.id == request_id)
            self._changed.notify_all()

    def wait_for_work(self, timeout: float) -> None:
        """Sleep until there is a job that is ready, or that is to leave, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: any(job.is_ready or job.is_to_leave for job in self._jobs), timeout)

    def close(self, job: Job) -> None:
        """It has had its last event."""
        with self._changed:
            self._jobs.remove(job)
        self._close(job.request)

    def all(self) -> list[Job]:
        with self._changed:
            return list(self._jobs)

    @property
    def idle(self) -> bool:
        """Nothing is open."""
        with self._changed:
            return not self._jobs

    @property
    def free_seats(self) -> int:
        """Seats that no open sample, seated or waiting, has a claim to."""
        with self._changed:
            return max(0, self._seats - sum(job.open_samples for job in self._jobs))

    @property
    def missing_seats(self) -> int:
        """Seats too few for who has one and for interactive jobs, once those are away that are to leave. Samples of
        batch jobs that have none wait."""
        with self._changed:
            stay = (job for job in self._jobs if not job.is_to_leave)
            wanted = (job.open_samples - (job.waiting if job.request.priority == "batch" else 0) for job in stay)
            return max(0, sum(wanted) - self._seats)

    def seats_of(self, request_id: str) -> int:
        """Those of one of them; 0 for an id that is not here."""
        with self._changed:
            return sum(min(job.open_samples, self._seats) for job in self._jobs if job.request.id == request_id)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
