"""Which jobs somebody looks at: told by gateways, heard by the workers that draw them.

Asynchronous. Knows the mark on a record and that it wears off; refuses to know who looks, and at what.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import redis.asyncio

from app.contract.redis.scripts import source

MARKED_AT_ONCE = 200
"""Jobs of one call: about a millisecond of Redis' time."""


class WatchMarks:
    """`client` must decode responses. Methods raise redis.RedisError while Redis is away."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._mark: Any = client.register_script(source("watch"))

    async def mark(self, job_ids: Collection[str]) -> None:
        """Somebody looks at these jobs now, and will for a while. Those that are over keep no mark."""
        ids = list(job_ids)
        for start in range(0, len(ids), MARKED_AT_ONCE):
            await self._mark(args=ids[start : start + MARKED_AT_ONCE])
