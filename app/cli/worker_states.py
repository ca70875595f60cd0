"""Says in the terminal when each of several workers serves its model, and what it is at until then.

Knows the names that the workers have in Redis, and what Redis was told of them. Refuses to know processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import redis

from app.cli.worker_plan import PlannedWorker
from app.contract.redis.ownership import Ownership

LOOK_SECONDS = 1.0
SAY_SECONDS = 30.0
"""A start takes seconds, or minutes with a large model: after this long, and then again, what it is at."""

Connect = Callable[[], redis.Redis]


@dataclass(slots=True)
class _Start:
    worker: PlannedWorker
    name: str
    say_at: float


class WorkerStates:
    """Of the workers of a plan. A single one is told of by the line that says that the service is ready."""

    def __init__(self, workers: Iterable[PlannedWorker], *, say: Callable[[str], None] | None = None) -> None:
        planned = list(workers)
        # Of one whose models have no plain names nobody can say when it serves them.
        self._workers = {worker.name: worker for worker in planned if len(planned) > 1 and worker.model}
        self._say = say or _on_standard_error
        self._starting: dict[str, _Start] = {}
        self._never_ready = {worker.model for worker in self._workers.values()}
        self._look_at = 0.0

    def has_served(self, model: str) -> bool:
        """Whether a worker of it was ever ready. True of a single worker's, and of one without a name: on such the
        service itself waits."""
        return model not in self._never_ready

    def began(self, child: str, name: str, now: float) -> None:
        """A process of this worker begins, and is called `name` in Redis."""
        if child in self._workers:
            self._starting[child] = _Start(self._workers[child], name, now + SAY_SECONDS)

    def ended(self, child: str) -> None:
        """The process has died: whoever saw it says so."""
        self._starting.pop(child, None)

    def look(self, now: float, connect: Connect) -> None:
        """Say what is new. Asks nothing once all serve, and is silent while Redis is away."""
        if not self._starting or now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        try:
            with connect() as client:
                ownership = Ownership(client)
                for child, start in list(self._starting.items()):
                    self._look_at_one(child, start, now, ownership)
        except redis.RedisError:
            return

    def _look_at_one(self, child: str, start: _Start, now: float, ownership: Ownership) -> None:
        worker = start.worker
        if any(ownership.is_announced(model, start.name) for model in (worker.model, *worker.others)):
            del self._starting[child]
            self._never_ready.discard(worker.model)
            self._say(f"{worker} is ready ({child})")
        elif now > start.say_at:
            start.say_at = now + SAY_SECONDS
            self._say(f"{worker} is not ready yet ({child}): {ownership.what_it_is_at(start.name) or 'it begins'}")


def _on_standard_error(sentence: str) -> None:
    print(f"darkroom: {sentence}", file=sys.stderr, flush=True)
