"""What happens to jobs, for every open connection of this process: one reader of Redis, any number of followers.

Knows streams and who follows which. Refuses to know HTTP and what an event means beyond being the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import redis
import structlog

from app.contract.messages.events import FINAL_EVENTS
from app.contract.messages.job import Record
from app.contract.redis.store import LONGEST_BLOCK, JobStore
from app.contract.redis.streams import READ_AT_ONCE, EventStreams, Told
from app.edge.waiting import end
from app.jobs.event_ids import order

log = structlog.get_logger()

PAUSE_SECONDS = 0.01
"""Between two reads: a thousand followed jobs are then read in batches, and nobody sees the difference."""


class Signal:
    """What one waiting listener sleeps on."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> None:
        """Until `wake`, or until the time is up."""
        # asyncio.wait_for and an Event are a second task and a queue: a third of what a follower costs.
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(eq=False, slots=True)
class Follower:
    """One listener's place in the story of one job. There are thousands: what it holds is counted in bytes."""

    job_id: str
    after: str
    _streams: EventStreams
    _is_late: bool
    _signal: Signal
    _fresh: list[Told] = field(default_factory=list)
    _error: redis.RedisError | None = None
    _is_closed: bool = False

    async def next(self, seconds: float) -> list[Told] | None:
        """What was told since; empty when the time is up, None when the service closes. Raises redis.RedisError."""
        await self.catch_up()
        if not self.has_news:
            await self._signal.wait(seconds)
        return self.take()

    @property
    def has_news(self) -> bool:
        """Whether `take` has something to say, or to read."""
        return bool(self._fresh or self._is_late or self._is_closed)

    def take(self) -> list[Told] | None:
        """What is there of `next` now."""
        if self._error is not None:
            raise self._error
        if self._is_closed:
            return None
        taken = [told for told in self._fresh if order(told[0]) > order(self.after)]
        self._fresh = []
        if taken:
            self.after = taken[-1][0]
        return taken

    def hear(self, news: list[Told]) -> None:
        """Take in what the reader has read. A listener too slow for it, or too new, reads for itself what it lacks."""
        self._fresh += news
        if len(self._fresh) > READ_AT_ONCE:
            self._fresh, self._is_late = [], True
        self._signal.wake()

    def end(self, error: redis.RedisError | None = None) -> None:
        """There will be no more news: Redis is away, or the service closes."""
        self._error, self._is_closed = error, True
        self._signal.wake()

    async def catch_up(self) -> None:
        """Read what the reader went past, if there is any. Raises redis.RedisError."""
        if not self._is_late:
            return
        # Registered with the reader before this reads: what is told after the snapshot arrives through `hear`.
        told = await self._streams.after(self.job_id, self.after)
        self._is_late = len(told) == READ_AT_ONCE
        self._fresh = (
            told
            if self._is_late
            else sorted({one[0]: one for one in (*told, *self._fresh)}.values(), key=lambda one: order(one[0]))
        )


@dataclass(eq=False, slots=True)
class Following:
    """One listener's places in the stories of several jobs."""

    followers: dict[str, Follower]
    _signal: Signal
    _leave: Callable[[Follower], None]

    async def next(self, seconds: float) -> list[tuple[str, Told]] | None:
        """As `Follower.next`, each with its job; what came together in the order of time."""
        for follower in self.followers.values():
            await follower.catch_up()
        if not any(follower.has_news for follower in self.followers.values()):
            await self._signal.wait(seconds)
        news: list[tuple[str, Told]] = []
        for job_id, follower in self.followers.items():
            told = follower.take()
            if told is None:
                return None
            news += [(job_id, one) for one in told]
        return sorted(news, key=lambda one: order(one[1][0]))

    def drop(self, job_id: str) -> None:
        """Hear no more of a job."""
        self._leave(self.followers.pop(job_id))


class Feed:
    """The one reader. It runs while somebody follows."""

    def __init__(self, store: JobStore, streams: EventStreams) -> None:
        self._store = store
        self._streams = streams
        self._followers: dict[str, set[Follower]] = {}
        self._places: dict[str, str] = {}
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False
        self.listeners = 0
        """Open waits and streams, however many jobs each follows."""

    @contextlib.asynccontextmanager
    async def follow(self, job_id: str, after: str) -> AsyncIterator[Follower]:
        """A follower from a stream id on ("0-0" is the beginning). Raises redis.RedisError."""
        async with self.follow_all({job_id: after}) as following:
            yield following.followers[job_id]

    @contextlib.asynccontextmanager
    async def follow_all(self, places: Mapping[str, str]) -> AsyncIterator[Following]:
        """The same for several jobs, each from its own stream id on."""
        signal = Signal()
        # The reader may be further on already with a job that it knows.
        followers = {
            job_id: Follower(job_id, after, self._streams, job_id in self._places, signal)
            for job_id, after in places.items()
        }
        self.listeners += 1
        try:
            await self._join(followers.values())
            yield Following(followers, signal, self._leave)
        finally:
            self.listeners -= 1
            for follower in followers.values():
                self._leave(follower)

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

    async def _join(self, followers: Iterable[Follower]) -> None:
        unknown = False
        for follower in followers:
            if self._is_closed:
                follower.end()
            self._followers.setdefault(follower.job_id, set()).add(follower)
            if follower.job_id not in self._places:
                self._places[follower.job_id], unknown = follower.after, True
        if unknown:
            await self._look_up()

    def _leave(self, follower: Follower) -> None:
        # After a loss of Redis the set may be one of others, who came later, or none.
        companions = self._followers.get(follower.job_id, set())
        companions.discard(follower)
        if not companions:
            self._followers.pop(follower.job_id, None)
            self._places.pop(follower.job_id, None)

    async def _look_up(self) -> None:
        """Have the reader look at jobs that it did not know of."""
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
