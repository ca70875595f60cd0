"""Which accepted jobs has a Redis lost that came back with less than it had acknowledged?

Replication and `appendfsync everysec` both run behind: a replica that takes over, or a machine that lost its power, may
lack the last moments, while the epoch in it says that all is well. Each gateway process remembers what it saw accepted
and looks for it when another server answers than before. Knows ids and tenants. Refuses to know what the jobs were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import redis.asyncio
import structlog

from app.contract.redis import keys

log = structlog.get_logger()

REMEMBERED_SECONDS = 60.0
"""Before the server was last seen, or a further job accepted: a replica that lags by more is not promoted (Sentinel
leaves one out whose link was down for ten times `down-after-milliseconds`), and an append-only file lacks a second or
two."""

LOOKS_SECONDS = 60.0
"""For so long after another server answered. Where the network has split, some connections still write to the old
primary, which takes what it is given and forgets it when it becomes a replica."""

MOST_REMEMBERED = 50_000
"""Some 10 MB. A gateway process accepts fewer in a minute."""

AT_ONCE = 500

MOST_NAMED = 100
"""Of a line in the log."""


class JobLost(redis.RedisError):
    """The job was accepted, and Redis has lost it. `job_id` names it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} was accepted and is lost")
        self.job_id = job_id


class AcceptedJobs:
    """What one gateway process has lately seen accepted. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        self._clock = clock
        self._jobs: dict[str, tuple[str | None, float]] = {}
        self._server = ""
        self._looks_until = 0.0
        self.lost = 0
        """Jobs that were found to be lost since the process began."""

    def add(self, job_id: str, tenant: str | None) -> None:
        """Redis has acknowledged this job. `tenant` None: an operator retried somebody's."""
        self._jobs[job_id] = (tenant, self._clock())
        self._forget_outdated()

    def drop(self, job_id: str) -> None:
        """It is about to be removed because its caller or its age wants it so: when it is missing, it is not lost."""
        self._jobs.pop(job_id, None)

    async def find_lost(self) -> list[str]:
        """Ids of jobs that are found to be lost now; whoever asks for one is told so. Raises redis.RedisError.

        To be called every few seconds: it costs one question while the same server answers.
        """
        server = (await self._redis.info("server")).get("run_id", "")
        if self._server and server != self._server:
            self._looks_until = self._clock() + LOOKS_SECONDS
        self._server = server
        if self._clock() >= self._looks_until:
            # Long since written and replicated. Whoever removes one of them later may be another process.
            self._forget_outdated()
            return []
        marked: list[str] = []
        try:
            for job_id in await self._missing(list(self._jobs)):
                if await self._mark_lost(job_id):
                    marked.append(job_id)
        finally:
            if marked:
                said = {"count": len(marked), "job_ids": marked[:MOST_NAMED]}
                log.error("accepted jobs are lost: redis came back without them", **said)
        return marked

    async def _mark_lost(self, job_id: str) -> bool:
        """Whoever asks for it is told so from now on. False if it was removed meanwhile. Until it is marked it stays
        remembered: where this raises, the next look finds it again."""
        if job_id not in self._jobs:
            return False
        tenant, _ = self._jobs[job_id]
        await self._redis.set(keys.LOST + job_id, tenant or "", ex=keys.LOST_SECONDS)
        self._jobs.pop(job_id, None)
        self.lost += 1
        return True

    async def _missing(self, job_ids: list[str]) -> list[str]:
        missing: list[str] = []
        for start in range(0, len(job_ids), AT_ONCE):
            asked = job_ids[start : start + AT_ONCE]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in asked:
                    pipeline.exists(keys.JOB + job_id)
                found = await pipeline.execute()
            missing += [job_id for job_id, there in zip(asked, found, strict=True) if not there]
        return missing

    def _forget_outdated(self) -> None:
        for old in [*self._outdated(self._clock())]:
            del self._jobs[old]

    def _outdated(self, now: float) -> Iterator[str]:
        too_many = len(self._jobs) - MOST_REMEMBERED
        for number, (job_id, (_, added)) in enumerate(self._jobs.items()):
            if number >= too_many and now - added <= REMEMBERED_SECONDS:
                return
            yield job_id
