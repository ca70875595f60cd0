"""Numbers about the whole queue, for whoever watches over it. Reads only; nothing here is a promise.

By ZCARD and friends: RQ's `registry.count` cleans up as it counts, and would judge attempts that only the reaper may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis.asyncio

from app.contract.redis import keys


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all models and tenants together."""

    running: int
    dead: int
    webhooks_owed: int


class QueueStats:
    """`client` must decode responses. Methods raise redis.RedisError while Redis is away."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once

    async def counts(self) -> Counts:
        """One round trip."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name in (keys.LEASES, keys.DEAD, keys.OUTBOX):
                pipeline.zcard(name)
            return Counts(*await pipeline.execute())

    async def running(self, model: str) -> int:
        """Jobs of a model that a worker owns, as RQ's registry of the queue has them."""
        return int(await self._redis.zcard(keys.RQ_STARTED + keys.queue_name(model)))

    async def deadlines(self, model: str) -> dict[str, int]:
        """Of its jobs with a deadline that are over, how many were in time (`met`) and how many were not (`missed`)."""
        met, missed = await self._redis.hmget(keys.DEADLINES + model, "met", "missed")
        return {"met": int(met or 0), "missed": int(missed or 0)}

    async def waiting(self, model: str) -> tuple[int, float, float]:
        """Jobs of a model that wait; the age in seconds of the one at the head of RQ's list; and for how long none of
        them has been claimed. 0.0 without one."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zcard(keys.QUEUED + model)
            pipeline.lindex(keys.RQ_QUEUE + keys.queue_name(model), 0)
            pipeline.hget(keys.CLOCK + model, "unserved")
            pipeline.time()
            depth, first, unserved, now = await pipeline.execute()
        created = await self._redis.hget(keys.JOB + first, "created_ms") if first else None
        at = now[0] + now[1] / 1e6
        return depth, _since(created, at), _since(unserved, at)


def _since(ms: str | None, at: float) -> float:
    """Seconds from a moment in ms until `at`; 0.0 where there is none."""
    return max(0.0, at - int(ms) / 1000) if ms else 0.0
