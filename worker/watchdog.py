"""Ends the process where waiting has no end: a call that hangs in a device's driver cannot be interrupted from inside.

Knows time and exit codes. Knows nothing of engines: who waits says for how long.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import structlog

from app.contract.exits import LOST_DEVICE

log = structlog.get_logger()


def abandon_ship(code: int) -> NoReturn:
    """Leave without a word of farewell: sys.exit would wait for the thread that hangs."""
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def ends_within(seconds: float, *, what: str) -> Iterator[None]:
    """What happens inside takes at most so long, or the process ends and its supervisor starts another."""
    timer = threading.Timer(seconds, _too_long, (what, seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _too_long(what: str, seconds: float) -> None:
    log.error("has not ended and is taken to hang in the device", what=what, seconds=seconds)
    abandon_ship(LOST_DEVICE)
