"""Numbers about the whole queue, for whoever watches over it. Reads only; nothing here is a promise.

By ZCARD and friends: RQ's `registry.count` cleans up as it counts, and would judge attempts that only the reaper may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from app.contract.redis import keys, rq_names


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all models and tenants together."""

    running: int
    dead: int
    webhooks_owed: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a model. Ages in seconds, 0.0 where nothing does."""

    jobs: int
    interactive_seconds: float
    """Age of the interactive job that has waited longest."""
    batch_seconds: float
    """The same of the batch jobs, which wait for as long as others come."""
    unserved_seconds: float
    """For how long none of them has been claimed."""

    @property
    def oldest_seconds(self) -> float:
        return max(self.interactive_seconds, self.batch_seconds)


LOOKED_AT = 100
"""Of the jobs in the order of turns, and of the tenants from either end of the order of theirs. A job that is passed
over may stand behind any number of others; but of its tenant's it stands first, or has the latest deadline."""


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
        return int(await self._redis.zcard(rq_names.RQ_STARTED + rq_names.queue_name(model)))

    async def deadlines(self, model: str) -> dict[str, int]:
        """Of its jobs with a deadline that are over, how many were in time (`met`) and how many were not (`missed`)."""
        met, missed = await self._redis.hmget(keys.DEADLINES + model, "met", "missed")
        return {"met": int(met or 0), "missed": int(missed or 0)}

    async def waiting(self, model: str) -> Waiting:
        """Three round trips. Ages are those of what `_standing` names and of what came back: of jobs with a deadline
        one between may be older, by no more than its deadline is longer."""
        queued, behind, few = keys.QUEUED + model, keys.AFTER_INTERACTIVE, {"start": 0, "num": LOOKED_AT}
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zcard(queued)
            pipeline.zrangebyscore(queued, "-inf", f"({behind}", **few)
            pipeline.zrangebyscore(queued, behind, "+inf", **few)
            for queue in _queues(model):
                pipeline.zrange(keys.NEXT_TURN + queue, 0, LOOKED_AT - 1)
                pipeline.zrevrange(keys.NEXT_TURN + queue, 0, LOOKED_AT - 1)
            pipeline.hget(keys.CLOCK + model, "unserved")
            pipeline.time()
            depth, first, last, *turns, unserved, now = await pipeline.execute()
        at = now[0] + now[1] / 1e6
        tenants = ({*turns[0], *turns[1]}, {*turns[2], *turns[3]})
        standing = await self._standing(dict(zip(_queues(model), tenants, strict=True)))
        oldest = await self._oldest({*first, *last, *standing})
        interactive, batch = (_since(oldest.get(priority), at) for priority in ("interactive", "batch"))
        return Waiting(depth, interactive, batch, _since(unserved, at))

    async def _standing(self, tenants: Mapping[str, Iterable[str]]) -> list[str]:
        """Of each tenant in a queue the jobs whose deadlines are the first and the last, and of those without one that
        which came first."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for queue, those in tenants.items():
                for tenant in those:
                    urgent, other = f"{tenant} {keys.WITH_DEADLINE}", f"{tenant} {keys.WITHOUT_DEADLINE}"
                    end = f"{tenant}{keys.BEHIND_TENANT}"
                    one = {"bylex": True, "offset": 0, "num": 1}
                    pipeline.zrange(keys.STANDING + queue, f"[{urgent}", f"({other}", **one)
                    pipeline.zrange(keys.STANDING + queue, f"({other}", f"[{urgent}", desc=True, **one)
                    pipeline.zrange(keys.STANDING + queue, f"[{other}", f"({end}", **one)
            return [standing.rpartition(" ")[2] for found in await pipeline.execute() for standing in found]

    async def _oldest(self, job_ids: Iterable[str]) -> dict[str, str]:
        """When (ms) the oldest of them was accepted, by priority. What came back goes before all, whatever it is."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hmget(keys.JOB + job_id, "priority", "created_ms")
            found = await pipeline.execute()
        known = ((priority or "interactive", created) for priority, created in found if created)
        return dict(sorted(known, key=lambda each: -int(each[1])))


def _queues(model: str) -> tuple[str, str]:
    """That of its interactive jobs, and that of its batch jobs."""
    return model, keys.BATCH_QUEUE + model


def _since(ms: str | None, at: float) -> float:
    """Seconds from a moment in ms until `at`; 0.0 where there is none."""
    return max(0.0, at - int(ms) / 1000) if ms else 0.0
