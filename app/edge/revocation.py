"""The moment from which a key, or having none, is good no longer.

One is heard by thousands of open streams: who listens costs an entry in a set and no task. Knows no keys and no HTTP.
For one event loop.
"""

from __future__ import annotations

from collections.abc import Callable


class Revocation:
    """Comes once, or never."""

    __slots__ = ("_has_come", "_listeners")

    def __init__(self) -> None:
        self._has_come = False
        self._listeners: set[Callable[[], None]] = set()

    def is_set(self) -> bool:
        return self._has_come

    def set(self) -> None:
        """Tell all who listen."""
        self._has_come = True
        for tell in [*self._listeners]:
            tell()

    def listen(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when it comes; at once if it has."""
        self._listeners.add(tell)
        if self._has_come:
            tell()

    def forget(self, tell: Callable[[], None]) -> None:
        self._listeners.discard(tell)
