"""Ends the process where waiting has no end: a call that hangs in a device's driver cannot be interrupted from inside.

Knows time, exit codes and what somebody is at. Knows no jobs: whoever has some is told before the end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import structlog

from app.contract.common.exits import LOST_DEVICE
from worker.engine.stage import Stage

log = structlog.get_logger()

SHORTEST_LOOK, LONGEST_LOOK = 0.05, 1.0

TIMES_EXPECTED = 10.0
"""A stage may take so many times what was measured at warm-up: by then others may use the machine as well."""


class Watchdog:
    """Looks at one stage of work again and again. Its time is what passed between looks that saw it.

    `stall_seconds` is the shortest limit. Time in which nobody looked does not count beyond one look: a machine that
    was stopped, or a process, has not hung.
    """

    def __init__(
        self,
        current: Callable[[], Stage | None],
        *,
        stall_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._current = current
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._seen: Stage | None = None
        self._seen_for = 0.0
        self._looked_at = clock()
        self.look_seconds = min(LONGEST_LOOK, max(SHORTEST_LOOK, stall_seconds / 4))

    def look(self) -> tuple[Stage, float] | None:
        """The stage that has gone on for longer than its limit, and that limit in seconds."""
        stage, now = self._current(), self._clock()
        passed, self._looked_at = now - self._looked_at, now
        if stage is None or stage is not self._seen:
            self._seen, self._seen_for = stage, 0.0
            return None
        self._seen_for += min(passed, 2 * self.look_seconds)
        limit = max(self._stall_seconds, TIMES_EXPECTED * stage.expected)
        return (stage, limit) if self._seen_for > limit else None


def hard_exit(code: int) -> NoReturn:
    """Leave without a word of farewell: sys.exit would wait for the thread that hangs."""
    sys.stderr.flush()
    os._exit(code)


class Deadline:
    """The process ends `seconds` after this began, or began again, unless it is called off."""

    def __init__(self, seconds: float, *, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._timer = self._started()

    def begin_again(self) -> None:
        """It has come further: what follows has all the time again."""
        self._timer.cancel()
        self._timer = self._started()

    def call_off(self) -> None:
        self._timer.cancel()

    def _started(self) -> threading.Timer:
        timer = threading.Timer(self._seconds, _too_long, (self._what, self._seconds))
        timer.daemon = True
        timer.start()
        return timer


@contextmanager
def ends_within(seconds: float, *, what: str) -> Iterator[Deadline]:
    """What happens inside takes at most so long, or the process ends and its supervisor starts another."""
    deadline = Deadline(seconds, what=what)
    try:
        yield deadline
    finally:
        deadline.call_off()


def _too_long(what: str, seconds: float) -> None:
    log.error("has not ended and is taken to hang in the device", what=what, seconds=seconds)
    hard_exit(LOST_DEVICE)
