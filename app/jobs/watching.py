"""Who polls a job sees it move as one who follows it does: its worker is told that somebody looks.

Knows when this process has said so last, so that a poll writes nothing but once in a while. Refuses to know streams.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import redis
import structlog

from app.contract.messages.job import Record
from app.contract.redis.keys import RENEW_WATCH_SECONDS

log = structlog.get_logger()

MOST_REMEMBERED = 10_000
"""Jobs. One that is forgotten early is marked once more."""


class Marks(Protocol):
    async def mark(self, job_ids: list[str], /) -> None: ...


class Watching:
    """Of one gateway process."""

    def __init__(self, marks: Marks, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._marks = marks
        self._clock = clock
        self._marked: OrderedDict[str, float] = OrderedDict()

    async def looked_at(self, record: Record) -> None:
        """Somebody has asked for it. No harm done if it cannot be told: then its progress comes once a second."""
        if record.status.is_terminal or not self._is_due(record.id):
            return
        try:
            await self._marks.mark([record.id])
        except redis.RedisError as error:
            log.debug("a look was not told of", job_id=record.id, reason=str(error))

    def _is_due(self, job_id: str) -> bool:
        """True once in RENEW_WATCH_SECONDS for each job."""
        at, last = self._clock(), self._marked.get(job_id)
        if last is not None and at - last < RENEW_WATCH_SECONDS:
            return False
        self._marked[job_id] = at
        self._marked.move_to_end(job_id)
        if len(self._marked) > MOST_REMEMBERED:
            self._marked.popitem(last=False)
        return True
