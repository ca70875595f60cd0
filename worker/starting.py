"""Says in Redis what a worker is at before it can be announced: loading and measuring take minutes on a slow device.

Best effort: whatever goes wrong here, the worker goes on starting. Knows sentences; refuses to know what they tell of.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog

from app.contract.redis.ownership import Ownership

log = structlog.get_logger()

SAY_SECONDS = 5.0
"""A sentence is believed for ALIVE_MS after it was last said."""


class Starting:
    """What this worker is at. `say` is for any thread and waits for nobody."""

    def __init__(self, ownership: Ownership, worker: str) -> None:
        self._ownership = ownership
        self._worker = worker
        self._sentence = ""
        self._fresh = threading.Event()
        self._over = False

    def say(self, sentence: str) -> None:
        self._sentence = sentence
        self._fresh.set()

    def measured(self, rows: int) -> None:
        """A step of so many rows has been timed."""
        log.info("warming up", rows_measured=rows)
        self.say(f"warming up, {rows} rows measured")

    def compiling(self, rows: int) -> None:
        """The network is compiled for a step of so many rows."""
        log.info("compiling", rows=rows)
        self.say(f"warming up, compiling for {rows} rows")

    @contextmanager
    def published(self) -> Iterator[None]:
        """Readers hear of it while the context lasts: one at a time."""
        self._over = False
        publisher = threading.Thread(target=self._publish, name="starting", daemon=True)
        publisher.start()
        try:
            yield
        finally:
            self._over = True
            self._fresh.set()
            publisher.join()

    def _publish(self) -> None:
        # Cleared before it looks: what is said, or that it is over, ends the next wait however it comes.
        self._fresh.clear()
        while not self._over:
            self._try(self._sentence)
            self._fresh.wait(SAY_SECONDS)
            self._fresh.clear()
        self._try("")

    def _try(self, sentence: str) -> None:
        try:
            self._ownership.starting(self._worker, sentence)
        except redis.RedisError as error:
            log.debug("the start was not published", reason=str(error))
