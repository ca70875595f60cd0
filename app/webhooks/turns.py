"""Who may try now, so that nobody's slowness is everybody's. Counts by any key: a host, a tenant."""

from __future__ import annotations

from dataclasses import dataclass

SOONEST, LATEST = 0.25, 60.0
"""Seconds after which one that found no room asks again. The latest bounds how long a recovered host is left alone, and
with it what a backlog for a dead one costs: ten thousand entries ask 170 times a second."""

FIRST_GUESS = 0.05
"""Seconds a try takes, until the first of its key has ended."""


@dataclass(slots=True)
class _Line:
    """Those who are at it, how long one takes (moving average, s), and when the last that was sent away comes back."""

    busy: int = 0
    pace: float = FIRST_GUESS
    last_back: float = 0.0


class Turns:
    """At most `limit` at once per key. `now` is any monotonic clock in seconds."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: dict[str, _Line] = {}

    def enter(self, key: str, now: float) -> float:
        """0 if it may go (it must `leave`); otherwise the seconds after which to ask again.

        Those sent away come back one by one, as fast as the key has lately let others through.
        """
        line = self._lines.setdefault(key, _Line())
        if line.busy < self._limit:
            line.busy += 1
            return 0.0
        in_line = max(now + SOONEST, line.last_back + line.pace / self._limit)
        line.last_back = min(in_line, now + LATEST)
        return line.last_back - now

    def leave(self, key: str, now: float, *, took: float | None = None) -> None:
        """Its turn is over. `took` in seconds; None if it was not used."""
        line = self._lines[key]
        line.busy -= 1
        if took is not None:
            line.pace = 0.8 * line.pace + 0.2 * took
        if not line.busy and line.last_back <= now:
            del self._lines[key]
