"""Is there room for what comes in? Asked before a job is accepted and before a picture is stored.

Knows Redis' memory and the disk of the picture store. Refuses to know what is to be kept there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from app.edge.errors import PicturesFull, QueueStorageFull
from app.jobs.cell_mark import CellMark
from app.jobs.model_registry import ModelRegistry
from app.pictures.store import PictureStore

MEMORY_LIMIT = 0.8
"""Part of Redis' memory that new jobs may fill. A full Redis could not even note that a job has finished."""

DISK_FRESH_SECONDS = 1.0
"""The disk is asked so often: a burst of requests fills the queue, and what fills the disk takes longer."""


class Room:
    """`reserve_bytes` of the disk are kept for jobs that are running."""

    def __init__(
        self,
        registry: ModelRegistry,
        pictures: PictureStore,
        mark: CellMark,
        *,
        reserve_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._pictures = pictures
        self._mark = mark
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._free_bytes: int | None = None
        self._disk_asked_at = -math.inf

    async def look(self) -> None:
        """Raises QueueStorageFull and PicturesFull; redis.RedisError and PictureStoreError if one is away, or if the
        store is another cell's."""
        self._mark.require()
        if await self._registry.memory_used() >= MEMORY_LIMIT:
            raise QueueStorageFull("The queue has no memory left for new jobs.", retry_after=30)
        if await self.disk_is_full():
            raise PicturesFull(
                "The picture store has no space left for new jobs: whoever runs the service has to free some.",
                retry_after=60,
            )

    async def disk_is_full(self) -> bool:
        """Whether there is too little for new jobs. Raises PictureStoreError if the store is away."""
        if self._clock() - self._disk_asked_at >= DISK_FRESH_SECONDS:
            self._free_bytes, self._disk_asked_at = await self._pictures.free_bytes(), self._clock()
        return self._free_bytes is not None and self._free_bytes < self._reserve_bytes
