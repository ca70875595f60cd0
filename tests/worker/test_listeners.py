"""Who hears of a step, in which order, and whose failure matters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from worker.engine.events import EngineEvent, Started
from worker.listeners import Listeners

STEP = [Started("a"), Started("b")]


class Noting:
    """Writes into a common list who heard what."""

    def __init__(self, name: str, heard: list[tuple[str, Sequence[EngineEvent]]], *, raises: bool = False) -> None:
        self.name, self.heard, self.raises = name, heard, raises
        self.aside: list[str] = []

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        self.heard.append((self.name, events))
        if self.raises:
            raise ValueError(self.name)

    def put_aside(self, token: str) -> None:
        self.aside.append(token)
        if self.raises:
            raise ValueError(self.name)


def test_the_reporter_hears_last_also_after_one_that_breaks() -> None:
    heard: list[tuple[str, Sequence[EngineEvent]]] = []
    broken, other = Noting("broken", heard, raises=True), Noting("other", heard)
    Listeners([broken, other], reporter=Noting("reporter", heard)).stepped(0.1, STEP)
    assert heard == [("broken", STEP), ("other", STEP), ("reporter", STEP)]


def test_a_reporter_that_breaks_is_not_forgiven() -> None:
    with pytest.raises(ValueError, match="reporter"):
        Listeners([], reporter=Noting("reporter", [], raises=True)).stepped(0.1, STEP)


def test_to_the_reporter_a_job_that_is_put_aside_goes_on() -> None:
    broken, other, reporter = Noting("broken", [], raises=True), Noting("other", []), Noting("reporter", [])
    Listeners([broken, other], reporter=reporter).put_aside("a")
    assert (broken.aside, other.aside, reporter.aside) == (["a"], ["a"], [])
