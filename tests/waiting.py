"""How tests wait for what happens elsewhere.

A deadline here guards against waiting for ever. It decides no verdict: a machine that is stopped for some seconds in
the wrong moment passes like any other. A test that has to show that something came soon shows what it came before.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

WAIT_SECONDS = 180.0
"""Seconds. Below pytest's own limit for a test, so that the reason is on screen. Nobody waits for so long but where
something is broken, or on a machine that eight other programs want as well."""

PLAIN: dict[str, Any] = {"trust_env": False, "verify": False}
"""Of httpx2's clients that speak to loopback without TLS: reading the certificates of all authorities takes 30 ms of a
processor, a hundred times what the rest of a client does."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two looks. In between it is a twentieth of what was waited: who looked a hundred times a second at
processes that start would take half of the processor that they start with."""


def until(true: Callable[[], T], *, seconds: float = WAIT_SECONDS, pause: float | None = None) -> T:
    """What `true` returns once it is truthy; TimeoutError at the deadline. Looks again after `pause` seconds, if they
    are given."""
    began = time.monotonic()
    while not (value := true()):
        waited = time.monotonic() - began
        if waited > seconds:
            raise TimeoutError(f"it did not happen in {seconds:g} s")
        time.sleep(pause or min(max(waited / 20, SHORTEST_PAUSE), LONGEST_PAUSE))
    return value


def wait_for_answers(kind: Any) -> None:
    """A client or pool of redis-py gives an answer up after 5 s, unless it is told a time, and asks again: on a machine
    that stands still what was said is done twice, or is an error. From now on it waits as for anything else."""
    begin = kind.__init__

    @functools.wraps(begin)
    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **{"socket_timeout": WAIT_SECONDS, "socket_connect_timeout": WAIT_SECONDS} | options)

    kind.__init__ = __init__
