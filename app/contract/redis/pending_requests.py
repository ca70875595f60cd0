"""Requests that wait for a job, by what they ask for: one that comes again finds the job of one that has gone.

Clients and proxies give up early and ask again, mostly without an idempotency key. Knows ids under a name that its
caller makes; refuses to know what makes two requests the same.
"""

from __future__ import annotations

from typing import Any, cast

import redis.asyncio

from app.contract.redis import keys
from app.contract.redis.scripts import source

BELIEVED_SECONDS = 75.0
"""Who has not said for so long that he waits does not: his gateway died. A wait without a further word is shorter."""


class PendingRequests:
    """Raises redis.RedisError while Redis is away. `client` must decode responses. A `waiter` is one request."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        self._join: Any = client.register_script(source("pending_join"))
        self._hold: Any = client.register_script(source("pending_hold"))

    async def join(self, name: str, waiter: str, *, again: bool) -> str | None:
        """A job that an equal request waited for, and nobody does now; `again`: or that somebody seems to wait for.

        The waiter waits for it from now on. Two who come at once get two jobs, if there are two.
        """
        believed = int(BELIEVED_SECONDS * 1_000)
        return cast("str | None", await self._join(args=[name, waiter, "again" if again else "", believed]))

    async def wait(self, name: str, job_id: str, waiter: str) -> None:
        """Somebody waits for this job: to be said at first, and again before BELIEVED_SECONDS are over."""
        await self._hold(args=[name, job_id, waiter, int(BELIEVED_SECONDS * 1_000)])

    async def leave(self, name: str, job_id: str, waiter: str) -> None:
        """The waiter has gone without an answer: the next equal request may have the job."""
        await self._hold(args=[name, job_id, waiter, 0])

    async def give_up(self, name: str, job_id: str, waiter: str) -> bool:
        """The waiter has gone, and nobody shall join. False if somebody has already."""
        return bool(await self._hold(args=[name, job_id, waiter, "forget"]))

    async def answered(self, name: str, job_id: str) -> None:
        """The job needs no joining any more."""
        await self._redis.hdel(keys.PENDING + name, job_id)
