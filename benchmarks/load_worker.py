"""A worker that draws nothing: the real intake and the real scripts, and jobs that are over after a given time.

`python -m benchmarks.load_worker <redis url> <seconds a job takes>` runs until SIGTERM. Knows a worker's half of the
contract; refuses to know torch.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import redis

from app.contract.common.logs import configure
from app.contract.redis.ownership import Claim, Ownership
from benchmarks.load_servers import CARD
from worker.attempts import Attempts
from worker.intake import Intake

READY = "ready"


class Clockwork:
    """An engine whose jobs take a time and no work."""

    def __init__(self, ownership: Ownership, attempts: Attempts, *, seconds: float) -> None:
        self._ownership = ownership
        self._attempts = attempts
        self._seconds = seconds
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Claim]] = []
        self._numbers = itertools.count()
        threading.Thread(target=self._end_them, name="clockwork", daemon=True).start()

    @property
    def free_seats(self) -> int:
        return CARD.seats - len(self._attempts.claims())

    @property
    def seats_for_interactive(self) -> int:
        return self.free_seats

    def go_on(self) -> None:
        """No job here makes room."""

    def cancel(self, request_id: str, /) -> None:
        """Jobs here are over before anybody could stop them."""

    def begin(self, claim: Claim) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + self._seconds, next(self._numbers), claim))
            self._changed.notify_all()

    def _end_them(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                _, _, claim = heapq.heappop(self._due)
            steps = claim.spec.num_inference_steps
            self._ownership.succeed(claim, [], timings={}, warnings=[], steps=steps)
            self._attempts.close(claim.token)


def main() -> None:
    # Nobody reads what this process writes but one word.
    configure("warning", process="clockwork")
    url, seconds = sys.argv[1], float(sys.argv[2])
    ownership, leasing = (Ownership(redis.Redis.from_url(url, decode_responses=True)) for _ in range(2))
    attempts = Attempts()
    engine = Clockwork(ownership, attempts, seconds=seconds)
    intake = Intake(
        served=[(CARD, engine)], name="clockwork", connection=redis.Redis.from_url(url), ownership=ownership,
        leasing=leasing, attempts=attempts, may_claim=lambda: True,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, intake.request_stop)
    intake.claim_until_stopped(registered=lambda: print(READY, flush=True))
    attempts.wait_until_empty(10)
    intake.leave()


@contextmanager
def clockwork(redis_url: str, *, job_seconds: float) -> Iterator[None]:
    """Such a worker as a process, while the context lasts."""
    command = [sys.executable, "-m", "benchmarks.load_worker", redis_url, str(job_seconds)]
    with Popen(command, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise RuntimeError("the worker did not start")
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
