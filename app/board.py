"""What workers announced and how fast they are, read from Redis at most once a second and remembered.

Knows models, pace and how full the queue's memory is. Refuses to know jobs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.contract.card import ModelCard
from app.contract.store import JobStore
from app.single_flight import SingleFlight

FRESH_SECONDS = 1.0
"""A model that appears or goes is noticed after so long; a burst of requests asks Redis once."""

SHORTEST_RETRY, LONGEST_RETRY = 1, 120
"""Seconds. The openai client honours up to 120; a longer wait would be a guess anyway."""


@dataclass(frozen=True, slots=True)
class Model:
    """One announced model and the workers heard of lately.

    `pace_ms` is how long a job of it runs, `seat_ms` that times the seats it holds; None before the first has ended.
    """

    card: ModelCard
    workers: int
    pace_ms: float | None
    seat_ms: float | None = None

    def eta_seconds(self, ahead: int) -> float | None:
        """Until a job with `ahead` others before it has finished; None while nobody can say.

        Little's law: seats that are all taken let go of a job every seat_ms / seats. Those before it take that long
        each, then it runs itself.
        """
        room = self.room_in_seconds(ahead)
        return None if room is None or self.pace_ms is None else room + self.pace_ms / 1000

    def room_in_seconds(self, wanted: int) -> float | None:
        """Until `wanted` of the jobs before have finished."""
        seat_ms = self.pace_ms if self.seat_ms is None else self.seat_ms
        if not self.workers or seat_ms is None:
            return None
        return wanted * seat_ms / 1000 / (self.card.seats * self.workers)


def retry_after(eta_seconds: float | None) -> int:
    """An estimate as a Retry-After: whole seconds, never 0, never longer than clients honour."""
    return min(LONGEST_RETRY, max(SHORTEST_RETRY, math.ceil(eta_seconds or 0)))


class Board:
    """Models by name, with a memory of one second. Raises redis.RedisError when it has to ask and cannot."""

    def __init__(self, store: JobStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._ask_once = SingleFlight(self._ask)
        self._models: dict[str, Model] = {}
        self._memory_used = 0.0
        self._asked_at = -math.inf

    async def models(self, wanted: str | None = None) -> Mapping[str, Model]:
        """Every model that was ever announced; those without workers too, because a restart must not refuse jobs.

        That a model is not there is never answered from memory: another gateway may have shown it to the caller.
        `wanted` is the one asked for, if one is.
        """
        is_there = bool(self._models) if wanted is None else wanted in self._models
        return self._models if is_there and self._is_fresh() else await self.look_again()

    async def look_again(self) -> Mapping[str, Model]:
        """The same, as Redis has them now."""
        await self._ask_once()
        return self._models

    async def memory_used(self) -> float:
        """Used part of the memory Redis may use, 0 to 1; 0 if it has no limit."""
        await self._refresh()
        return self._memory_used

    async def _refresh(self) -> None:
        if not self._is_fresh():
            await self._ask_once()

    def _is_fresh(self) -> bool:
        return self._clock() - self._asked_at < FRESH_SECONDS

    async def _ask(self) -> None:
        served = await self._store.models()
        models = {
            name: Model(s.card, s.workers, *(await self._store.pace_ms(name) or (None, None)))
            for name, s in served.items()
        }
        info = await self._store.server_info()
        self._memory_used = info["used_memory"] / info["maxmemory"] if info["maxmemory"] else 0.0
        self._models, self._asked_at = models, self._clock()
