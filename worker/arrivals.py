"""Claimed jobs on their way into the engine: those that name pictures wait until these are here.

Knows who is under way, and that nobody is let in for whom there is no seat. Refuses to know how pictures are read, and
what is said of a job that never began.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import structlog

from app.contract.messages.card import Safety
from app.contract.messages.spec import pictures_of
from app.contract.redis.ownership import Claim
from worker.attempts import Attempt, Attempts, NotBegun
from worker.engine.request import Request
from worker.errors import WorkerError
from worker.inputs import Inputs
from worker.reporter import Reporter
from worker.safety import watched

log = structlog.get_logger()

FETCHERS = 4
"""Threads that read and decode pictures. A decoder holds the pixels of one, 64 MB at most, and releases the interpreter
lock."""


class Engine(Protocol):
    """What arrivals ask of the engine."""

    @property
    def free_seats(self) -> int: ...
    def submit(self, request: Request, /) -> None: ...
    def cancel(self, request_id: str, /) -> None: ...


class Arrivals:
    """Between the claim and the engine. Any thread may call."""

    def __init__(
        self, engine: Engine, inputs: Inputs, attempts: Attempts, reporter: Reporter, safety: Safety = "off"
    ) -> None:
        self._engine = engine
        self._inputs = inputs
        self._attempts = attempts
        self._reporter = reporter
        self._safety: Safety = safety
        self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="inputs")
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}

    @property
    def free_seats(self) -> int:
        """Of the engine, that nobody under way has a claim to."""
        with self._lock:
            taken = sum(self._under_way.values())
        return max(0, self._engine.free_seats - taken)

    def begin(self, claim: Claim) -> None:
        """Hand a claimed job to the engine, which calls it by its token: at once, or when its pictures are here."""
        attempt = self._attempts.get(claim.token) or Attempt(claim)
        if not pictures_of(claim.spec):
            self._submit(attempt, {})
            return
        with self._lock:
            self._under_way[claim.token] = claim.spec.num_images
        self._pool.submit(self._carry, attempt)

    def cancel(self, token: str) -> None:
        """Stop a job in the engine. One that is under way sees its attempt's stop by itself."""
        self._engine.cancel(token)

    def close(self) -> None:
        """Fetch nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _carry(self, attempt: Attempt) -> None:
        claim = attempt.claim
        try:
            pictures = self._inputs.fetch(claim, keep_trying=lambda: attempt.stop is None)
            self._submit(attempt, pictures)
        except WorkerError as error:
            self._reporter.handle(NotBegun(claim.token, error))
        except Exception:
            log.exception("a job could not be begun", job_id=claim.id)
            unread = WorkerError("The pictures that this job needs could not be read. It is logged.")
            self._reporter.handle(NotBegun(claim.token, unread))
        finally:
            with self._lock:
                del self._under_way[claim.token]

    def _submit(self, attempt: Attempt, pictures: Mapping[str, np.ndarray]) -> None:
        claim = attempt.claim
        try:
            request = Request.of(claim.token, watched(claim.spec, self._safety), pictures)
        except ValueError as error:
            self._reporter.refuse(claim, str(error))
            return
        self._engine.submit(request)
        # Whoever stopped it while it was under way spoke to an engine that did not know it yet.
        if attempt.stop is not None:
            self._engine.cancel(claim.token)
