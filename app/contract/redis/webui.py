"""What programs that speak AUTOMATIC1111's API expect a server to remember between two requests.

That server belongs to one person; this one remembers per API key, so that nobody changes anything for others. Knows
names and ids. Refuses to know models and requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import redis.asyncio

from app.contract.redis import keys


class WebUiMemory:
    """Methods raise redis.RedisError while Redis is away. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once

    async def checkpoint(self, tenant: str, key_id: str) -> str | None:
        """The model that was set last with this key, None if none was."""
        found = await self._redis.getex(_checkpoint(tenant, key_id), ex=keys.CHECKPOINT_SECONDS)
        return cast("str | None", found)

    async def set_checkpoint(self, tenant: str, key_id: str, model: str | None) -> None:
        """The model of later requests with this key; None: that of requests that name none."""
        if model is None:
            await self._redis.delete(_checkpoint(tenant, key_id))
        else:
            await self._redis.set(_checkpoint(tenant, key_id), model, ex=keys.CHECKPOINT_SECONDS)

    async def note_interrupted(self, job_ids: Iterable[str]) -> None:
        """These jobs are about to be called off, because who waits for them has said so."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.set(keys.INTERRUPTED + job_id, "1", ex=keys.INTERRUPTED_SECONDS)
            await pipeline.execute()

    async def was_interrupted(self, job_id: str) -> bool:
        """Whether that was said of the job."""
        return bool(await self._redis.exists(keys.INTERRUPTED + job_id))

    async def newest_preview(self, job_id: str) -> str | None:
        """The JPEG, as base64, of the newest preview of the job's first picture; None if there is none now."""
        return cast("str | None", await self._redis.hget(f"{keys.PREVIEW}{job_id}:0", "jpeg"))


def _checkpoint(tenant: str, key_id: str) -> str:
    return f"{keys.CHECKPOINT}{tenant}:{key_id}"
