"""What attempts have left in the object store: pictures without a result, and snapshots.

Names them when their time has come. Refuses to know the store, and how they are removed.
"""

from __future__ import annotations

from typing import Any, cast

import redis.asyncio

from app.contract.redis import keys


class Leftovers:
    """`client` must decode responses. Raises redis.RedisError."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client

    async def orphans(self, *, limit: int = 100) -> list[str]:
        """Attempts whose pictures nobody wants any more: "<job id>/<token>"."""
        return await self._due(keys.ORPHANS, limit)

    async def tidied(self, attempt: str) -> None:
        """The pictures of such an attempt are gone."""
        await self._redis.zrem(keys.ORPHANS, attempt)

    async def snapshots(self, *, limit: int = 100) -> list[str]:
        """Attempts whose snapshots nobody will go on from: "<job id>/<token>"."""
        return await self._due(keys.SNAPSHOT_OBJECTS, limit)

    async def snapshots_removed(self, attempt: str) -> None:
        """Those of such an attempt are gone."""
        await self._redis.zrem(keys.SNAPSHOT_OBJECTS, attempt)

    async def _due(self, key: str, limit: int) -> list[str]:
        seconds, micros = await self._redis.time()
        now_ms = seconds * 1000 + micros // 1000
        return cast(list[str], await self._redis.zrangebyscore(key, "-inf", now_ms, start=0, num=limit))
