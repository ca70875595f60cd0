"""A thread for what must always run in one and the same: libraries keep a GPU's handles and workspaces by thread.

Knows calls. Refuses to know what they compute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class OwnThread:
    """Begins with its first call. A daemon: a call that hangs in a driver does not keep the process from its end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, call: Callable[[], T]) -> Future[T]:
        """Behind the calls before. The future has what it returned, or raises what it raised."""
        answer: Future[T] = Future()

        def run() -> None:
            nonlocal call
            try:
                found = call()
                # Whoever waits for the answer may free what the call refers to: this thread must not hold it by then.
                del call
                answer.set_result(found)
            except BaseException as error:
                answer.set_exception(error)

        self._calls.put(run)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return answer

    def wait_for(self, call: Callable[[], T]) -> T:
        """What it returned. Raises what it raised."""
        return self.begin(call).result()

    def _run(self) -> None:
        while True:
            self._calls.get()()
