"""Claimed jobs that name pictures, until those are here: read in threads, which the claiming one does not wait for.

Knows attempts and who hears of one that could not begin. Refuses to know what is done with the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import structlog

from worker.attempts import Attempt, NotBegun
from worker.errors import WorkerError
from worker.inputs import Inputs
from worker.reporter import Reporter

log = structlog.get_logger()

FETCHERS = 4
"""Threads that read and decode pictures. A decoder holds the pixels of one, 64 MB at most, and releases the interpreter
lock."""

Pictures = Mapping[str, np.ndarray]
"""uint8 [H, W, 3 or 4], by the sha256 of each file."""


class Fetching:
    """Any thread may call."""

    def __init__(self, inputs: Inputs, reporter: Reporter) -> None:
        self._inputs = inputs
        self._reporter = reporter
        self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="inputs")

    def bring(
        self,
        attempt: Attempt,
        go_on: Callable[[Attempt, Pictures], None],
        *,
        missed: Callable[[], None] = lambda: None,
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """Call `go_on` with the pictures when they are here; without them the attempt ends, and `missed` hears of it
        if its job ends with it. Then `over` in any case."""
        self._pool.submit(self._carry, attempt, go_on, missed, over)

    def close(self) -> None:
        """Fetch nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _carry(
        self,
        attempt: Attempt,
        go_on: Callable[[Attempt, Pictures], None],
        missed: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        try:
            go_on(attempt, self._inputs.fetch(attempt.claim, keep_trying=lambda: attempt.stop is None))
        except WorkerError as error:
            self._end(attempt, error, missed)
        except Exception:
            log.exception("a job could not be begun", job_id=attempt.claim.id)
            unread = WorkerError("The pictures that this job needs could not be read. It is logged.")
            self._end(attempt, unread, missed)
        finally:
            over()

    def _end(self, attempt: Attempt, error: WorkerError, missed: Callable[[], None]) -> None:
        if not error.is_given_back:
            missed()
        self._reporter.handle(NotBegun(attempt.claim.token, error))
