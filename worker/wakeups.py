"""What makes an idle worker look for a job: word that there is one, a seat that became free, a signal.

Knows the one thing that the claiming thread sleeps on, and the threads that wait for Redis in its place: a read that
blocks must hold up no SIGTERM. Refuses to know who may claim, and what is done with a job.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
import weakref
from contextlib import suppress
from typing import Protocol

import redis
import structlog

from app.contract.redis.keys import IDLE_SECONDS

log = structlog.get_logger()


class Bell:
    """`ring` may be called by any thread and by a signal handler: it takes no lock. One thread at a time may `wait`."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        for end in (self._out, self._in):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        weakref.finalize(self, self._selector.close)

    def ring(self) -> None:
        """End the wait that goes on, or the next one."""
        # A pipe that is full has rung often enough.
        with suppress(BlockingIOError):
            os.write(self._in, b"!")

    def wait(self, seconds: float) -> None:
        """Until it rings, or has rung since the last wait, or the time is up."""
        if self._selector.select(seconds):
            with suppress(BlockingIOError):
                os.read(self._out, 1 << 16)


class Word(Protocol):
    """Of app.contract.redis.ownership.Ownership."""

    def hear(self, worker: str, *, seconds: float) -> str | None: ...
    def pass_on(self, model: str) -> None: ...


class Ears:
    """Which models a worker listens for, and the thread that does. Any thread may call."""

    def __init__(self, worker: str, word: Word, bell: Bell) -> None:
        self._worker = worker
        self._word = word
        self._bell = bell
        self._open: set[str] = set()
        self._any, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._listen, name="ears", daemon=True)

    def is_open(self, model: str) -> bool:
        """Whether word of the model that comes now would ring. The first that comes ends it."""
        return model in self._open

    def open(self, model: str) -> None:
        """Its queue was empty just now, and there is a free seat. Word that came since then is heard."""
        self._open.add(model)
        self._any.set()

    def close(self, model: str) -> None:
        """Word of this model is for others from now on."""
        self._open.discard(model)

    def listen(self) -> None:
        """In a thread of its own, until the process ends or `end`."""
        self._thread.start()

    def end(self) -> None:
        """Hear nothing more. A read that is under way ends by itself, and nobody waits for it."""
        self._over = True
        self._open.clear()
        self._any.set()

    def _listen(self) -> None:
        while True:
            self._any.wait()
            if self._over:
                return
            try:
                self._hear()
            except redis.RedisError as error:
                # No matter: the worker asks all the same, if less often.
                log.debug("no word of jobs is heard", reason=str(error))
                time.sleep(IDLE_SECONDS)

    def _hear(self) -> None:
        if not self._open:
            self._any.clear()
            # Somebody may have opened one, or ended it all, and set it, just before it was cleared.
            if self._open or self._over:
                self._any.set()
            return
        model = self._word.hear(self._worker, seconds=IDLE_SECONDS)
        if model is None:
            return
        if model in self._open:
            self._open.discard(model)
            self._bell.ring()
        else:
            self._word.pass_on(model)
