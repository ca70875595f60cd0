"""A network that is in memory only while somebody needs it.

Knows borrowers. Refuses to know what is lent and how it is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Seldom:
    """Lends what `load` makes, in the host's memory, for any thread; loading itself has one thread of its own. Whoever
    gives it back last drops it: unlike an adapter (lending.py) it is large, and the next borrower may never come."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.load = load
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="seldom")
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._future: Future[Any] | None = None
        self._placed: Any = None

    def borrow(self, borrower: str) -> Future[Any]:
        """Done when it is there. Raises what `load` does; then the next one tries again."""
        with self._lock:
            self._held.add(borrower)
            if self._future is None or (self._future.done() and self._future.exception()):
                self._future = self._loader.submit(self.load)
            return self._future

    def lent(self, place: Callable[[Any], Any]) -> Any:
        """The network, brought to where the model is by `place`, once. For one thread, while somebody holds it."""
        with self._lock:
            future = self._future
        assert future is not None, "This is a bug: it was never borrowed."
        if self._placed is None:
            self._placed = place(future.result(timeout=0))
        return self._placed

    def give_back(self, borrower: str) -> None:
        """One that has borrowed nothing changes nothing."""
        with self._lock:
            if borrower not in self._held:
                return
            self._held.remove(borrower)
            if not self._held:
                self._future = self._placed = None
