"""Whose turn it is on the device: one thread at a time, in the order in which they asked.

A plain lock would go to whoever lets go of it and takes it at once again, which the engine does at every step. Knows
threads. Refuses to know what is done in a turn.
"""

from __future__ import annotations

import threading


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
