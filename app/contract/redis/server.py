"""What the Redis server says of itself, and whether it takes writes now. Knows INFO; durability.py judges it.

Methods raise redis.RedisError while it is away.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio

from app.contract.redis import keys

NEWEST = (keys.SAID, keys.STORE_WORDS, keys.INPUT_BYTES)
"""Keys that no released version has used yet: who has users of his own in Redis may have those of before."""


class RedisServer:
    """`client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once

    async def info(self) -> dict[str, Any]:
        """INFO, sections memory and persistence: whether it keeps what it accepts, and how full it is."""
        memory, persistence = await self._redis.info("memory"), await self._redis.info("persistence")
        return {**memory, **persistence}

    async def role(self) -> dict[str, Any]:
        """INFO, sections replication and cluster: whether this is the primary, and the only one."""
        return dict(await self._redis.info("replication")) | dict(await self._redis.info("cluster"))

    async def try_a_write(self) -> None:
        """Raises redis.ResponseError if Redis refuses writes now: a full disk, a replica, no memory, a right that is
        missing since an upgrade.

        Nothing put into a key that is not there: judged like any write, and neither kept nor put into the append-only
        file, so that everybody may ask for it as often as they like.
        """
        await self._redis.setrange(keys.WRITE_PROBE, 0, "")
        await self._redis.exists(*NEWEST)
