"""What an operator sees of everybody's jobs and of the workers. Reads only; a moment's view, put together in pieces.

Knows the lines and lists that the scripts keep. Refuses to know who may look, and what can be changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import redis.asyncio

from app.contract.messages.job import Record
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis import keys
from app.contract.redis.clock import now_ms
from app.contract.redis.job_lists import BEGINNING, records_of
from app.contract.redis.scripts import source

TALLIED_AT_ONCE = 500
"""Jobs of one call: half a millisecond of Redis' time, and others are served before the next."""

Line = Literal["waiting", "running"]
Place = tuple[int, str]
"""A moment (ms), and the id of that moment after which a page begins."""


@dataclass(slots=True)
class Share:
    """What a tenant has of a model: numbers of jobs, and their costs in megapixel steps."""

    model: str
    tenant: str
    waiting: int = 0
    running: int = 0
    waiting_cost: float = 0.0
    running_cost: float = 0.0
    oldest_ms: int | None = None
    """When the oldest of those that wait came in."""

    def add(self, line: Line, cost: float, created_ms: int) -> None:
        if line == "running":
            self.running, self.running_cost = self.running + 1, self.running_cost + cost
            return
        self.waiting, self.waiting_cost = self.waiting + 1, self.waiting_cost + cost
        self.oldest_ms = min(created_ms, self.oldest_ms or created_ms)


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """A worker that was heard of lately. `note` is None for one of an earlier version, and for one that starts."""

    name: str
    models: tuple[str, ...] = ()
    in_memory: tuple[str, ...] = ()
    """Of its models."""
    beat_ms: int = 0
    starting: str = ""
    """What it is at before it serves anything; empty once it does."""
    draining_ms: int | None = None
    """Since when it takes no more jobs."""
    note: WorkerNote | None = None


class Overview:
    """`client` must decode responses. Methods raise redis.RedisError while Redis is away."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        self._scripts: Any = {name: client.register_script(source(name)) for name in ("tally", "newest", "read")}

    async def shares(self, model: str | None = None) -> list[Share]:
        """Who has jobs of a model, or of any, that wait or run. In pieces: what moves meanwhile may be missing."""
        models = {model} if model else {*await self._redis.smembers(keys.MODELS_QUEUED)}
        found: dict[tuple[str, str], Share] = {}
        for name in sorted(models):
            for line in ("running", "waiting"):
                async for tenant, cost, created_ms in self._jobs(name, line):
                    share = found.setdefault((name, tenant), Share(name, tenant))
                    share.add(line, cost, created_ms)
        return [*found.values()]

    async def _jobs(self, model: str, line: Line) -> AsyncIterator[tuple[str, float, int]]:
        """Tenant, cost and age of each job, none twice however the line moves meanwhile."""
        seen: set[str] = set()
        start, piece = 0, [""]
        while piece:
            piece = await self._scripts["tally"](args=[model, line, start, TALLIED_AT_ONCE])
            start += TALLIED_AT_ONCE
            for job_id, tenant, cost, created in zip(*(piece[at::4] for at in range(4)), strict=True):
                if created and job_id not in seen:
                    yield tenant, float(cost or 1), int(created)
                seen.add(job_id)

    async def workers(self, model: str | None = None) -> list[SeenWorker]:
        """Those that were heard of lately, by name, without their notes; with a model, those that serve it."""
        models = await self._redis.hkeys(keys.CARDS)
        since_ms = await now_ms(self._redis) - keys.ALIVE_MS
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zrange(keys.DRAINING, 0, -1, withscores=True)
            pipeline.hgetall(keys.STARTING)
            for name in models:
                pipeline.zrangebyscore(keys.ALIVE + name, since_ms, "+inf", withscores=True)
                pipeline.hkeys(keys.LOADABLE + name)
            draining, starting, *found = await pipeline.execute()
        workers = _serving(zip(models, found[::2], found[1::2], strict=True), dict(draining))
        workers += [] if model else _starting(starting, since_ms=since_ms)
        return sorted((each for each in workers if model in (None, *each.models)), key=lambda each: each.name)

    async def worker(self, name: str) -> SeenWorker | None:
        """One of them by its name, without looking at the others; None if it was not heard of lately."""
        models = await self._redis.hkeys(keys.CARDS)
        since_ms = await now_ms(self._redis) - keys.ALIVE_MS
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zscore(keys.DRAINING, name)
            pipeline.hget(keys.STARTING, name)
            for model in models:
                pipeline.zscore(keys.ALIVE + model, name)
                pipeline.hexists(keys.LOADABLE + model, name)
            draining, starting, *found = await pipeline.execute()
        beats = [[(name, beat)] if beat is not None and beat >= since_ms else [] for beat in found[::2]]
        loadable = [[name] if can_load else [] for can_load in found[1::2]]
        workers = _serving(zip(models, beats, loadable, strict=True), {} if draining is None else {name: draining})
        workers += _starting({name: starting} if starting else {}, since_ms=since_ms)
        return workers[0] if workers else None

    async def notes(self, names: Sequence[str]) -> list[WorkerNote | None]:
        """What each said of itself with its last beat."""
        found = await self._redis.mget([keys.WORKER + name for name in names]) if names else []
        return [WorkerNote.model_validate_json(text) if text else None for text in found]

    async def draining(self) -> int:
        """Workers that take no more jobs and have not left yet."""
        if not await self._redis.exists(keys.DRAINING):
            return 0
        return sum(each.draining_ms is not None for each in await self.workers())

    async def dead(self, *, limit: int, before: Place | None = None) -> list[tuple[Record, int]]:
        """Jobs that used up their attempts and were not run again, the latest first, each with when it did (ms)."""
        found = await self._scripts["newest"](args=["dead", *(before or BEGINNING), limit])
        moments = {job_id: int(moment) for job_id, moment in zip(found[::2], found[1::2], strict=True)}
        records = records_of(await self._scripts["read"](args=["brief", *moments])) if moments else []
        return [(record, moments[record.id]) for record in records]

    async def is_of_forgotten_model(self, job_id: str) -> bool:
        """Whether the job is there, and its model on no list any more."""
        model = await self._redis.hget(keys.JOB + job_id, "model")
        return model is not None and not await self._redis.hexists(keys.CARDS, model)


def _serving(
    found: Iterable[tuple[str, list[tuple[str, float]], list[str]]], draining: dict[str, float]
) -> list[SeenWorker]:
    """Of each model the workers with their last beats, and those of them that have another one in memory."""
    workers: dict[str, SeenWorker] = {}
    for model, beats, loadable in found:
        for name, beat in beats:
            known = workers.get(name) or SeenWorker(name, draining_ms=int(draining[name]) if name in draining else None)
            workers[name] = replace(
                known,
                models=tuple(sorted([*known.models, model])),
                in_memory=known.in_memory if name in loadable else tuple(sorted([*known.in_memory, model])),
                beat_ms=max(int(beat), known.beat_ms),
            )
    return [*workers.values()]


def _starting(told: dict[str, str], *, since_ms: int) -> list[SeenWorker]:
    said = [(name, *text.split(" ", 1)) for name, text in told.items()]
    return [SeenWorker(name, beat_ms=int(at), starting=words) for name, at, words in said if int(at) > since_ms]
