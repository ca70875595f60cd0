"""What the engine is at, for a thread that watches it from outside: a call that hangs in a driver tells nobody.

Knows names and expectations. Refuses to know clocks and limits: whoever watches has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One piece of work. Another object is another piece, also under the same name.

    `expected` is how many seconds it takes by what was measured at warm-up; 0 where nobody knows.
    """

    name: str
    expected: float = 0.0


class Stages:
    """Written by one thread, read by any."""

    def __init__(self) -> None:
        self.current: Stage | None = None
        """None while there is nothing to do."""

    @contextmanager
    def at(self, name: str, *, expected: float = 0.0) -> Iterator[None]:
        """The piece of work inside. What goes on around it begins anew when it is over."""
        around = self.current
        self.current = Stage(name, expected)
        try:
            yield
        finally:
            # On a GPU the work may only have been sent off, and is waited for out there.
            self.current = around and Stage(around.name, max(around.expected, expected))
