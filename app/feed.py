"""What happens to jobs, for every open connection of this process: one reader of Redis, any number of followers.

Knows streams and who follows which. Refuses to know HTTP and what an event means beyond being the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import redis
import structlog

from app.contract.events import FINAL_EVENTS
from app.contract.job import Record
from app.contract.store import LONGEST_BLOCK, JobStore
from app.contract.streams import READ_AT_ONCE, EventStreams, Told
from app.patience import end

log = structlog.get_logger()

PAUSE_SECONDS = 0.01
"""Between two reads: a thousand followed jobs are then read in batches, and nobody sees the difference."""


@dataclass(eq=False, slots=True)
class Follower:
    """One listener's place in the story of one job. There are thousands: what it holds is counted in bytes."""

    job_id: str
    after: str
    _streams: EventStreams
    _is_late: bool
    _fresh: list[Told] = field(default_factory=list)
    _waiter: asyncio.Future[None] | None = None
    _error: redis.RedisError | None = None
    _is_closed: bool = False

    async def next(self, seconds: float) -> list[Told] | None:
        """What was told since; empty when the time is up, None when the service closes. Raises redis.RedisError."""
        if self._is_late:
            await self._catch_up()
        if not (self._fresh or self._is_late or self._is_closed):
            await self._wait(max(0.0, seconds))
        if self._error is not None:
            raise self._error
        return None if self._is_closed else self._take()

    def hear(self, news: list[Told]) -> None:
        """Take in what the reader has read. A listener too slow for it, or too new, reads for itself what it lacks."""
        self._fresh += news
        if len(self._fresh) > READ_AT_ONCE:
            self._fresh, self._is_late = [], True
        self._wake()

    def end(self, error: redis.RedisError | None = None) -> None:
        """There will be no more news: Redis is away, or the service closes."""
        self._error, self._is_closed = error, True
        self._wake()

    async def _wait(self, seconds: float) -> None:
        # asyncio.wait_for and an Event are a second task and a queue: a third of what a follower costs.
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _catch_up(self) -> None:
        # Registered with the reader before this reads: what is told after the snapshot arrives through `hear`.
        told = await self._streams.after(self.job_id, self.after)
        self._is_late = len(told) == READ_AT_ONCE
        self._fresh = (
            told
            if self._is_late
            else sorted({one[0]: one for one in (*told, *self._fresh)}.values(), key=lambda one: _order(one[0]))
        )

    def _take(self) -> list[Told]:
        taken = [told for told in self._fresh if _order(told[0]) > _order(self.after)]
        self._fresh = []
        if taken:
            self.after = taken[-1][0]
        return taken


class Feed:
    """The one reader. It runs while somebody follows."""

    def __init__(self, store: JobStore, streams: EventStreams) -> None:
        self._store = store
        self._streams = streams
        self._followers: dict[str, set[Follower]] = {}
        self._places: dict[str, str] = {}
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def listeners(self) -> int:
        """Open followers."""
        return sum(len(followers) for followers in self._followers.values())

    @contextlib.asynccontextmanager
    async def follow(self, job_id: str, after: str) -> AsyncIterator[Follower]:
        """A follower from a stream id on ("0-0" is the beginning). Raises redis.RedisError."""
        # The reader may be further on already with a job that it knows.
        follower = Follower(job_id, after, self._streams, job_id in self._places)
        if self._is_closed:
            follower.end()
        companions = self._followers.setdefault(job_id, set())
        companions.add(follower)
        try:
            if job_id not in self._places:
                self._places[job_id] = after
                await self._look_up()
            yield follower
        finally:
            companions.discard(follower)
            if not companions and self._followers.get(job_id) is companions:
                del self._followers[job_id]
                self._places.pop(job_id, None)

    async def wait_until_over(self, record: Record, *, seconds: float) -> Record:
        """The record as it is once the job is over, or when the time is up or the service closes."""
        ends = time.monotonic() + seconds
        if record.status.is_over or seconds <= 0:
            return record
        async with self.follow(record.id, "0-0") as follower:
            while (left := ends - time.monotonic()) > 0:
                news = await follower.next(left)
                if news is None or any(event in FINAL_EVENTS for _, event, _ in news):
                    break
        return await self._store.get(record.id, record.tenant) or record

    async def close(self) -> None:
        """End every follower and the reader."""
        self._is_closed = True
        self._end_all()
        if self._reader is not None:
            await end(self._reader)

    async def _look_up(self) -> None:
        """Have the reader look at a job that it did not know of."""
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="feed")
        else:
            await self._streams.wake()

    async def _read(self) -> None:
        failed = False
        while self._places:
            try:
                news = await self._streams.read(self._places, seconds=LONGEST_BLOCK)
            except redis.RedisError as error:
                if failed:
                    log.info("the event feed lost redis", error=type(error).__name__)
                    self._end_all(error)
                # The connection may have died alone. It is known where each was, so that a second read misses nothing.
                failed = True
                continue
            failed = False
            for job_id, told in news.items():
                self._tell(job_id, told)
            await asyncio.sleep(PAUSE_SECONDS)

    def _tell(self, job_id: str, told: list[Told]) -> None:
        if job_id in self._places:
            self._places[job_id] = told[-1][0]
        for follower in self._followers.get(job_id, ()):
            follower.hear(told)

    def _end_all(self, error: redis.RedisError | None = None) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.end(error)
        self._followers, self._places = {}, {}


def _order(stream_id: str) -> tuple[int, int]:
    ms, _, count = stream_id.partition("-")
    return int(ms), int(count)
