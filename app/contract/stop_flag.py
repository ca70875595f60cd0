"""A flag that a signal handler may set at any moment."""

from __future__ import annotations

import time


class StopFlag:
    """Like threading.Event, without its lock.

    A handler runs in the main thread between any two instructions. If they are inside Event.wait, which holds the lock
    for a moment, Event.set waits there for a lock that only its own thread could free.
    """

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        """Sleep, to the end even if the flag is set meanwhile; whether it is set then."""
        if not self._set:
            time.sleep(seconds)
        return self._set
