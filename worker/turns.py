"""Whose turn it is on the device: one thread at a time, in the order in which they asked.

A plain lock would go to whoever lets go of it and takes it at once again, which the engine does at every step. Knows
threads. Refuses to know what is done in a turn.
"""

from __future__ import annotations

import threading
import time


class Turns:
    """`with turns:` waits for the own turn, and ends it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0
        self._serving = 0

    def __enter__(self) -> None:
        with self._changed:
            own, self._next = self._next, self._next + 1
            self._changed.wait_for(lambda: self._serving == own)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


class OwnTurns:
    """Those of one who asks, in one thread at a time; `seconds` is how long they took together, without the waiting."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._began = 0.0
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._turns.__enter__()
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began
        self._turns.__exit__()
