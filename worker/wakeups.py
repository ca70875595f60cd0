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

    def hear(self, model: str, *, seconds: float) -> bool: ...
    def pass_on(self, model: str) -> None: ...


class Ear:
    """Listens for word of one model's jobs while it is `open`. Nothing is heard before `listen`."""

    def __init__(self, model: str, word: Word, bell: Bell) -> None:
        self._model = model
        self._word = word
        self._bell = bell
        self._open = threading.Event()
        self._over = False

    @property
    def is_open(self) -> bool:
        """Whether word that comes now would ring. It closes with the first."""
        return self._open.is_set()

    def open(self) -> None:
        """The queue was empty just now, and there is a free seat. Word that came since then is heard."""
        self._open.set()

    def close(self) -> None:
        """Word is for others from now on."""
        self._open.clear()

    def listen(self) -> None:
        """In a thread of its own, until the process ends or `end`."""
        threading.Thread(target=self._listen, name=f"ear {self._model}", daemon=True).start()

    def end(self) -> None:
        """Hear nothing more. A read that is under way ends by itself."""
        self._over = True
        self._open.set()

    def _listen(self) -> None:
        while True:
            self._open.wait()
            if self._over:
                return
            try:
                self._hear()
            except redis.RedisError as error:
                # No matter: the worker asks all the same, if less often.
                log.debug("no word of jobs is heard", model=self._model, reason=str(error))
                time.sleep(IDLE_SECONDS)

    def _hear(self) -> None:
        if not self._word.hear(self._model, seconds=IDLE_SECONDS):
            return
        if self._over or not self._open.is_set():
            self._word.pass_on(self._model)
            return
        self._open.clear()
        self._bell.ring()
