"""What attempts have left in the object store: pictures without a result, and snapshots.

Names them when their time has come. Refuses to know the store, and how they are removed.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio

from app.contract.redis import keys
from app.contract.redis.clock import due


class Leftovers:
    """`client` must decode responses. Raises redis.RedisError."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client

    async def orphans(self, *, limit: int = 100) -> list[str]:
        """Attempts whose pictures nobody wants any more: "<job id>/<token>"."""
        return await due(self._redis, keys.ORPHANS, limit=limit)

    async def tidied(self, attempt: str) -> None:
        """The pictures of such an attempt are gone."""
        await self._redis.zrem(keys.ORPHANS, attempt)

    async def snapshots(self, *, limit: int = 100) -> list[str]:
        """Attempts whose snapshots nobody will go on from: "<job id>/<token>"."""
        return await due(self._redis, keys.SNAPSHOT_OBJECTS, limit=limit)

    async def snapshots_removed(self, attempt: str) -> None:
        """Those of such an attempt are gone."""
        await self._redis.zrem(keys.SNAPSHOT_OBJECTS, attempt)
