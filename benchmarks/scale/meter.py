"""What Redis did between two moments: its main thread's processor time, script calls, and the longest command.

Knows INFO and SLOWLOG. Refuses to know why Redis was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import redis

LOGGED = 100_000
"""Entries of the slow log: more than there are slow commands in any part of a run."""


@dataclass(slots=True)
class Spent:
    """Filled in when the time is over. `seconds` are those of the main thread on a processor, so that a busy machine
    changes them little; `scripts` are calls of scripts, `trips` what Redis read from its clients; `longest_ms` is the
    slowest single command by the clock on the wall, 0 below a millisecond."""

    seconds: float = 0.0
    scripts: int = 0
    trips: int = 0
    longest_ms: float = 0.0


class Meter:
    """Of one Redis. `client` must decode responses."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis: Any = client
        client.config_set("slowlog-log-slower-than", 1_000)
        client.config_set("slowlog-max-len", LOGGED)
        self._own_seconds = 0.0
        self._own_seconds = median(self._of_nothing() for _ in range(5))

    @contextmanager
    def spent(self) -> Iterator[Spent]:
        """What is spent within."""
        found = Spent()
        self._redis.slowlog_reset()
        before = self._counters()
        try:
            yield found
        finally:
            after = self._counters()
            found.seconds, found.scripts, found.trips = (b - a for a, b in zip(before, after, strict=True))
            found.seconds = max(0.0, found.seconds - self._own_seconds)
            found.longest_ms = max((each["duration"] / 1000 for each in self._redis.slowlog_get(LOGGED)), default=0.0)

    def memory(self) -> int:
        """Bytes of all that Redis holds."""
        return int(self._redis.info("memory")["used_memory"])

    def _of_nothing(self) -> float:
        """What the meter itself spends: of a few idle workers it would be half."""
        with self.spent() as spent:
            pass
        return spent.seconds

    def _counters(self) -> tuple[float, int, int]:
        told = self._redis.info("cpu", "commandstats", "stats")
        seconds = told["used_cpu_user_main_thread"] + told["used_cpu_sys_main_thread"]
        return (
            float(seconds),
            int(told.get("cmdstat_evalsha", {"calls": 0})["calls"]),
            int(told["total_reads_processed"]),
        )
