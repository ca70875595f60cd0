"""How tests wait for what happens elsewhere.

A deadline here guards against waiting for ever. It decides no verdict: a machine that is stopped for some seconds in
the wrong moment passes like any other. A test that has to show that something came soon shows what it came before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_SECONDS = 180.0
"""Seconds. Below pytest's own limit for a test, so that the reason is on screen. Nobody waits for so long but where
something is broken, or on a machine that eight other programs want as well."""


def until(true: Callable[[], T], *, seconds: float = WAIT_SECONDS, pause: float = 0.01) -> T:
    """What `true` returns once it is truthy; TimeoutError at the deadline."""
    ends = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > ends:
            raise TimeoutError(f"it did not happen in {seconds:g} s")
        time.sleep(pause)
    return value
