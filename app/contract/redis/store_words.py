"""Words that gateways of this Redis have left in the picture store, so that they know their own.

A Redis that is a copy of another has that one's name, and its words up to the copy. Knows Redis only.
"""

from __future__ import annotations

import secrets
from typing import Any

import redis.asyncio

from app.contract.redis import keys

REST_SECONDS = 50
"""Between two words, whichever gateway leaves them. Of two that come at the same moment both may."""

KEPT = 100


class StoreWords:
    """Methods raise redis.RedisError while Redis is away. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once

    async def draw(self) -> str:
        """A word to be left in the store, known from now on. Empty if one was drawn a moment ago."""
        now = int((await self._redis.time())[0])
        known = await self._redis.zrevrange(keys.STORE_WORDS, 0, -1, withscores=True)
        # A clock that was set back, or another server's, makes no word a late one for ever.
        if known and abs(now - known[0][1]) < REST_SECONDS:
            return ""
        word = secrets.token_hex(16)
        await self._redis.zadd(keys.STORE_WORDS, {word: now})
        for former, _ in known[KEPT - 1 :]:
            await self._redis.zrem(keys.STORE_WORDS, former)
        return word

    async def knows(self, word: str) -> bool:
        return await self._redis.zscore(keys.STORE_WORDS, word) is not None
