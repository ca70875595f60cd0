"""Synchronous requests that have no answer yet: a client that tries again joins the job it is waiting for.

The openai client repeats a POST whose connection broke or timed out, without an idempotency key. Knows lists of ids
under a name its caller makes; refuses to know what makes two requests the same.
"""

from __future__ import annotations

from typing import Any, cast

import redis.asyncio

from app.contract import keys

KEPT_SECONDS = 1_800
"""A client with the usual ten-minute deadline tries twice more, after pauses of at most two minutes."""


class Unanswered:
    """Raises redis.RedisError while Redis is away. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once

    async def note(self, name: str, job_id: str) -> None:
        """Somebody waits for this job."""
        async with self._redis.pipeline() as pipeline:
            # Once, also if it is said again: whoever joins must not find one job in the place of two.
            pipeline.lrem(keys.UNANSWERED + name, 0, job_id)
            pipeline.rpush(keys.UNANSWERED + name, job_id)
            pipeline.expire(keys.UNANSWERED + name, KEPT_SECONDS)
            await pipeline.execute()

    async def join(self, name: str) -> str | None:
        """A job that an equal request waits for or waited for. Two who join at once get two jobs, if there are two."""
        return cast("str | None", await self._redis.lmove(keys.UNANSWERED + name, keys.UNANSWERED + name))

    async def answered(self, name: str, job_id: str) -> None:
        """The job needs no further joining."""
        await self._redis.lrem(keys.UNANSWERED + name, 0, job_id)
