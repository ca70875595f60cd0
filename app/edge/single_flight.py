"""One question at a time, however many want its answer.

Knows turns and failures. Refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import redis


class SingleFlight:
    """Calls that come while `ask` runs share the next run, and fail at once if the present one does.

    A run that began before a call may have looked too early for it, so its success answers nobody who came later; its
    failure answers everybody: against a Redis that hangs, a line of callers would else wait one timeout each in turn.
    Raises what `ask` raises, which for sharing has to be a redis.RedisError.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._turn = asyncio.Lock()
        self._begun = 0
        self._answered = 0
        self._failed = 0
        self._failure: redis.RedisError | None = None

    async def __call__(self) -> None:
        """Returns when a run that began after this call has ended well."""
        begun, failed = self._begun, self._failed
        async with self._turn:
            if self._failed > failed:
                raise redis.ConnectionError("Redis failed another who asked the same.") from self._failure
            if self._answered > begun:
                return
            self._begun += 1
            mine = self._begun
            try:
                await self._ask()
            except redis.RedisError as error:
                self._failed, self._failure = self._failed + 1, error
                raise
            self._answered = mine
