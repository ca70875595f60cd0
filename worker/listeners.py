"""Who hears of each step of the engine, in one declared order.

Knows the order, and whose failure matters. Refuses to know what a listener makes of an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from worker.engine.events import EngineEvent

log = structlog.get_logger()


class Listener(Protocol):
    """Called from the engine's thread after each step; must not block it."""

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        """The engine's step took so many seconds, and this happened in it."""


class Listeners:
    """First the `observers`, in their order: whatever they raise is logged, for they are not worth a picture.

    `reporter` comes last: it ends jobs, and an observer that heard of an end later would find the attempt gone. What it
    raises is raised here.
    """

    def __init__(self, observers: Sequence[Listener], *, reporter: Listener) -> None:
        self._observers = tuple(observers)
        self._reporter = reporter

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        for observer in self._observers:
            try:
                observer.stepped(seconds, events)
            except Exception:
                log.exception("a step was not noted", by=type(observer).__name__)
        self._reporter.stepped(seconds, events)
