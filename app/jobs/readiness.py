"""Can this gateway do its work? Each thing it needs is looked at and named.

Knows Redis, the picture store and the workers by their answers. Refuses to repair anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, Literal

import redis
import structlog

from app.contract.messages.served import ServedModel
from app.contract.redis.durability import cluster_fault, durability_faults, reasons_to_refuse_writes
from app.contract.redis.store import JobStore, QueueLost
from app.jobs.cell_mark import CellMark
from app.jobs.model_registry import ModelRegistry
from app.jobs.room import Room
from app.jobs.schemas import CheckView, ReadinessView
from app.pictures.errors import PictureStoreError
from app.pictures.store import PictureStore

log = structlog.get_logger()

STORAGE_FRESH_SECONDS = 10.0
"""Anybody may ask /readyz; a probe object is written at most this often."""

STORAGE_SECONDS = 5.0
"""A store that takes longer is not ready, and the orchestrator is answered in time."""

Check = Literal["redis", "storage", "workers"]


class Readiness:
    """The checks behind /readyz."""

    def __init__(
        self,
        store: JobStore,
        pictures: PictureStore,
        mark: CellMark,
        registry: ModelRegistry,
        room: Room,
        *,
        durability: Literal["require", "ignore"],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pictures = pictures
        self._mark = mark
        self._registry = registry
        self._room = room
        self._durability = durability
        self._clock = clock
        self._storage: CheckView | None = None
        self._storage_at = 0.0
        self._looking = asyncio.Lock()

    async def look(self, exclude: Collection[Check] = ()) -> ReadinessView:
        """All checks at once but those that are left out. Never raises: a fault is a check that failed."""
        all_of_them: dict[Check, Callable[[], Awaitable[CheckView]]] = {
            "redis": self._redis,
            "storage": self._picture_store,
            "workers": self._workers,
        }
        names = {name: check for name, check in all_of_them.items() if name not in exclude}
        found = await asyncio.gather(*(check() for check in names.values()))
        checks: dict[str, CheckView] = dict(zip(names, found, strict=True))
        return ReadinessView(ready=all(check.ok for check in found), checks=checks)

    async def _redis(self) -> CheckView:
        info: dict[str, Any] = {}
        try:
            info = await self._store.server.info() | await self._store.server.role()
            if fault := cluster_fault(info):
                return _red(fault)
            await self._store.server.try_a_write()
            await self._store.require_epoch()
        except QueueLost as error:
            return _red(str(error))
        except (redis.ResponseError, redis.BusyLoadingError) as error:
            said = str(error)[:200]
            log.warning("redis refuses", reason=said)
            if not info:
                return _red(f"Redis refuses to answer: {said}")
            if isinstance(error, redis.exceptions.NoPermissionError):
                return _red(f"Redis refuses what this version asks for: {said}. Load its deploy/redis/users.acl")
            return _red(f"Redis refuses writes. {'. '.join(reasons_to_refuse_writes(info) or [said])}")
        except redis.RedisError as error:
            return _red(f"Redis does not answer ({type(error).__name__}): check that it runs and can be reached")
        faults = durability_faults(info)
        if faults and self._durability == "require":
            return _red(f"{'. '.join(faults)}. Or set DARKROOM_REDIS_DURABILITY=ignore")
        return _green("writable, but it may forget accepted jobs" if faults else "writable and durable")

    async def _picture_store(self) -> CheckView:
        async with self._looking:
            if self._storage is None or self._clock() - self._storage_at > STORAGE_FRESH_SECONDS:
                self._storage, self._storage_at = await self._probe(), self._clock()
            return _red(self._mark.taken) if self._mark.taken else self._storage

    async def _probe(self) -> CheckView:
        try:
            async with asyncio.timeout(STORAGE_SECONDS):
                await self._pictures.check()
                is_full = await self._room.disk_is_full()
        except TimeoutError:
            return _red(f"the picture store took more than {STORAGE_SECONDS:g} s: check its network and load")
        except PictureStoreError as error:
            # The sentence names folders and buckets: for the log, not for everybody who can connect.
            log.warning("picture store not writable", reason=str(error))
            return _red("pictures cannot be written, read and deleted: the gateway's log says why")
        # Green: pictures are still shown and deleted, and running jobs end.
        full = "writable, but no new job is taken: free some space, or lower DARKROOM_STORAGE_RESERVE_BYTES"
        return _green(full if is_full else "writable")

    async def _workers(self) -> CheckView:
        try:
            models = await self._registry.models()
            workers = _workers(models.values())
            starting = [] if workers else await self._store.models.starting()
        except redis.RedisError:
            return _red("unknown while Redis does not answer")
        if starting:
            return _red(f"no worker is ready yet; starting: {'; '.join(dict.fromkeys(starting))}")
        if not workers:
            return _red("no worker was heard of lately: start one, or see why it does not announce itself")
        return _green(f"{workers} heard of lately")


def _workers(models: Iterable[ServedModel]) -> int:
    """Those that draw, and serve a scorer beside; else those that do only that. One that has several folders serves
    many models and is counted where it has one in memory; while it loads, it has none."""
    counts = [(model.workers, model.in_memory, model.card.draws) for model in models]
    for kind in ([each for each in counts if each[2]], counts):
        if found := max(sum(having for _, having, _ in kind), max((workers for workers, _, _ in kind), default=0)):
            return found
    return 0


def _red(detail: str) -> CheckView:
    return CheckView(ok=False, detail=detail)


def _green(detail: str) -> CheckView:
    return CheckView(ok=True, detail=detail)
