"""What workers announced and how fast they are, read from Redis at most once a second and remembered.

Knows models, pace and how full the queue's memory is. Refuses to know jobs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from app.contract.messages.served import ServedModel
from app.contract.redis.store import JobStore
from app.edge.single_flight import SingleFlight

FRESH_SECONDS = 1.0
"""A model that appears or goes is noticed after so long; a burst of requests asks Redis once."""

SHORTEST_RETRY, LONGEST_RETRY = 1, 120
"""Seconds. The openai client honours up to 120; a longer wait would be a guess anyway."""


def retry_after(eta_seconds: float | None) -> int:
    """An estimate as a Retry-After: whole seconds, never 0, never longer than clients honour."""
    return min(LONGEST_RETRY, max(SHORTEST_RETRY, math.ceil(eta_seconds or 0)))


class ModelRegistry:
    """Models by name, with a memory of one second. Raises redis.RedisError when it has to ask and cannot."""

    def __init__(self, store: JobStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._ask_once = SingleFlight(self._ask)
        self._models: dict[str, ServedModel] = {}
        self._aliases: dict[str, str] = {}
        self._memory_used = 0.0
        self._asked_at = -math.inf

    async def models(self, wanted: str | None = None) -> Mapping[str, ServedModel]:
        """Every model that was ever announced; those without workers too, because a restart must not refuse jobs.

        That a model is not there is never answered from memory: another gateway may have shown it to the caller.
        `wanted` is the one asked for, if one is.
        """
        is_there = bool(self._models) if wanted is None else wanted in self._models
        return self._models if is_there and self._is_fresh() else await self.look_again()

    async def look_again(self) -> Mapping[str, ServedModel]:
        """The same, as Redis has them now."""
        await self._ask_once()
        return self._models

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names that the operator gave while the service ran, and what they lead to: as of the last look."""
        return self._aliases

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
        models, aliases = await self._store.models.all(), await self._store.models.aliases()
        info = await self._store.server.info()
        self._memory_used = info["used_memory"] / info["maxmemory"] if info["maxmemory"] else 0.0
        self._models, self._aliases, self._asked_at = models, aliases, self._clock()
