"""Who hears of each step of the engine, in one declared order.

Knows the order, and whose failure matters. Refuses to know what a listener makes of an event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from worker.engine.events import EngineEvent

log = structlog.get_logger()


class Listener(Protocol):
    """Called from the engine's thread after each step; must not block it."""

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        """The engine's step took so many seconds, and this happened in it."""


class Observer(Listener, Protocol):
    """One that counts or notes. Called from the engine's thread as well."""

    def put_aside(self, token: str, /) -> None:
        """This attempt, at a batch job, has left its seats for a while."""


class Listeners:
    """First the `observers`, in their order: whatever they raise is logged, for they are not worth a picture.

    `reporter` comes last: it ends jobs, and an observer that heard of an end later would find the attempt gone. What it
    raises is raised here.
    """

    def __init__(self, observers: Sequence[Observer], *, reporter: Listener) -> None:
        self._observers = tuple(observers)
        self._reporter = reporter

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        self._note(lambda observer: observer.stepped(seconds, events))
        self._reporter.stepped(seconds, events)

    def put_aside(self, token: str) -> None:
        """Tell the observers. To the reporter the attempt goes on."""
        self._note(lambda observer: observer.put_aside(token))

    def _note(self, tell: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:
                log.exception("something was not noted", by=type(observer).__name__)
