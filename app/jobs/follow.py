"""What happens to jobs, for every open connection of this process: one reader of Redis, any number of listeners.

Each listener follows one job or several, and iterates over their events. Knows streams and who follows which. Refuses
to know HTTP and what an event means beyond being the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import redis
import structlog

from app.contract.messages.events import FINAL_EVENTS
from app.contract.messages.job import Record
from app.contract.redis.keys import RENEW_WATCH_SECONDS
from app.contract.redis.store import LONGEST_BLOCK, JobStore
from app.contract.redis.streams import READ_AT_ONCE, Entry, EventStreams
from app.contract.redis.watch_marks import WatchMarks
from app.edge.waiting import end
from app.jobs.event_ids import order

log = structlog.get_logger()

PAUSE_SECONDS = 0.01
"""Between two reads: a thousand followed jobs are then read in batches, and nobody sees the difference."""

HEARTBEAT_SECONDS = 15.0
"""Proxies cut a silent connection after 30 s or more. Jittered, so that streams do not all beat at once."""


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
class Place:
    """How far one listener is in the events of one job. There are thousands: what it holds is counted in bytes."""

    job_id: str
    after: str
    _streams: EventStreams
    _is_late: bool
    _signal: Signal
    _fresh: list[Entry] = field(default_factory=list)
    _error: redis.RedisError | None = None
    _is_closed: bool = False
    is_watched: bool = False
    """Whoever listens looks at the job's progress, and does not only wait for its end."""

    @property
    def has_news(self) -> bool:
        """Whether `take` has something to say, or to read."""
        return bool(self._fresh or self._is_late or self._is_closed)

    def take(self) -> list[Entry] | None:
        """What came since; None when the service closes. Raises redis.RedisError."""
        if self._error is not None:
            raise self._error
        if self._is_closed:
            return None
        taken = [entry for entry in self._fresh if order(entry.id) > order(self.after)]
        self._fresh = []
        if taken:
            self.after = taken[-1].id
        return taken

    def add(self, entries: list[Entry]) -> None:
        """What the reader has read. A listener too slow for it, or too new, reads for itself what it lacks."""
        self._fresh += entries
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
        # Known to the reader before this reads: what happens after the snapshot arrives through `add`.
        entries = await self._streams.after(self.job_id, self.after)
        self._is_late = len(entries) == READ_AT_ONCE
        self._fresh = (
            entries
            if self._is_late
            else sorted({each.id: each for each in (*entries, *self._fresh)}.values(), key=lambda each: order(each.id))
        )


@dataclass(eq=False, slots=True)
class Following:
    """One listener's places in the events of its jobs."""

    places: dict[str, Place]
    _signal: Signal
    _leave: Callable[[Place], None]

    async def events(self, *, until: float) -> AsyncIterator[tuple[str, Entry] | None]:
        """Each event with its job, to the last one of every job: what all event streams of the gateway are made of.

        None when HEARTBEAT_SECONDS or a little less have passed and nothing waits: time for a sign of life, and to look
        whether the jobs are still there. Ends early at `until`, by time.monotonic(), and when the service closes.
        Raises redis.RedisError.
        """
        beat_at = _next_beat()
        while self.places and (left := until - time.monotonic()) > 0:
            news = await self.next(min(left, max(0.0, beat_at - time.monotonic())))
            if news is None:
                return
            for job_id, entry in news:
                if entry.event in FINAL_EVENTS:
                    self.drop(job_id)
                yield job_id, entry
            if not news and time.monotonic() >= beat_at:
                beat_at = _next_beat()
                yield None

    async def next(self, seconds: float) -> list[tuple[str, Entry]] | None:
        """What came since, each with its job and in the order of time.

        Empty when the time is up, None when the service closes. Raises redis.RedisError.
        """
        for place in self.places.values():
            await place.catch_up()
        if not any(place.has_news for place in self.places.values()):
            await self._signal.wait(seconds)
        news: list[tuple[str, Entry]] = []
        for job_id, place in self.places.items():
            entries = place.take()
            if entries is None:
                return None
            news += [(job_id, entry) for entry in entries]
        return sorted(news, key=lambda each: order(each[1].id))

    def drop(self, job_id: str) -> None:
        """Hear no more of a job."""
        self._leave(self.places.pop(job_id))


def _next_beat() -> float:
    return time.monotonic() + HEARTBEAT_SECONDS * random.uniform(0.7, 1.0)


class Feed:
    """The one reader. It runs while somebody follows."""

    def __init__(
        self, store: JobStore, streams: EventStreams, marks: WatchMarks, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._streams = streams
        self._marks = marks
        self._clock = clock
        self._unmarked: set[str] = set()
        self._marked_all_at = float("-inf")
        self._listening: dict[str, set[Place]] = {}
        self._read_to: dict[str, str] = {}
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False
        self.listeners = 0
        """Open waits and streams, however many jobs each follows."""

    @contextlib.asynccontextmanager
    async def follow(self, after: Mapping[str, str], *, watched: bool = True) -> AsyncIterator[Following]:
        """Jobs, each from a stream id on; "0-0" is the beginning. `watched`: progress is wanted as often as there is
        some, and not the end alone. Raises redis.RedisError."""
        signal = Signal()
        # The reader may be further on already with a job that it knows.
        places = {
            job_id: Place(job_id, stream_id, self._streams, job_id in self._read_to, signal, is_watched=watched)
            for job_id, stream_id in after.items()
        }
        self.listeners += 1
        try:
            await self._join(places.values())
            yield Following(places, signal, self._leave)
        finally:
            self.listeners -= 1
            for place in places.values():
                self._leave(place)

    async def wait_for_end(self, record: Record, *, seconds: float) -> Record:
        """The record as it is once the job is over, or when the time is up or the service closes."""
        ends = time.monotonic() + seconds
        if record.status.is_terminal or seconds <= 0:
            return record
        async with self.follow({record.id: "0-0"}, watched=False) as following:
            async for _ in following.events(until=ends):
                pass
        return await self._store.get(record.id, record.tenant) or record

    async def close(self) -> None:
        """End every listener and the reader."""
        self._is_closed = True
        self._end_all()
        if self._reader is not None:
            await end(self._reader)

    async def _join(self, places: Iterable[Place]) -> None:
        unknown = False
        for place in places:
            if self._is_closed:
                place.end()
            if place.is_watched and not self._is_marked(place.job_id):
                self._unmarked.add(place.job_id)
                unknown = True
            self._listening.setdefault(place.job_id, set()).add(place)
            if place.job_id not in self._read_to:
                self._read_to[place.job_id], unknown = place.after, True
        if unknown:
            await self._look_up()

    def _is_marked(self, job_id: str) -> bool:
        """Somebody watches it already, and it is told with the others."""
        return job_id not in self._unmarked and any(each.is_watched for each in self._listening.get(job_id, ()))

    def _leave(self, place: Place) -> None:
        # After a loss of Redis the set may be one of others, who came later, or none.
        others = self._listening.get(place.job_id, set())
        others.discard(place)
        if not others:
            self._listening.pop(place.job_id, None)
            self._read_to.pop(place.job_id, None)

    async def _look_up(self) -> None:
        """Have the reader look at jobs that it did not know of."""
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="feed")
        else:
            await self._streams.wake()

    async def _read(self) -> None:
        failed = False
        while self._read_to:
            await self._mark()
            try:
                news = await self._streams.read(self._read_to, seconds=LONGEST_BLOCK)
            except redis.RedisError as error:
                if failed:
                    log.info("the event feed lost redis", error=type(error).__name__)
                    self._end_all(error)
                # The connection may have died alone. It is known where each was, so that a second read misses nothing.
                failed = True
                continue
            failed = False
            for job_id, entries in news.items():
                self._hand_out(job_id, entries)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _mark(self) -> None:
        """Tell the workers of jobs that are watched: of a new one at once, of all from time to time."""
        at, due = self._clock(), self._unmarked
        if at - self._marked_all_at >= RENEW_WATCH_SECONDS:
            due = {job_id for job_id, places in self._listening.items() if any(each.is_watched for each in places)}
            self._marked_all_at = at
        self._unmarked = set()
        if not due:
            return
        try:
            await self._marks.mark(due)
        except redis.RedisError as error:
            # Progress comes once a second then.
            log.debug("workers were not told who is watched", jobs=len(due), error=type(error).__name__)

    def _hand_out(self, job_id: str, entries: list[Entry]) -> None:
        if job_id in self._read_to:
            self._read_to[job_id] = entries[-1].id
        for place in self._listening.get(job_id, ()):
            place.add(entries)

    def _end_all(self, error: redis.RedisError | None = None) -> None:
        for places in self._listening.values():
            for place in places:
                place.end(error)
        self._listening, self._read_to = {}, {}
