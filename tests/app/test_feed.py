"""One reader for all streams: who comes late, who is slow, and what is left when nobody follows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from app.contract.redis.keys import EVENTS
from app.contract.redis.store import JobStore
from app.contract.redis.streams import READ_AT_ONCE, Entry, EventStreams
from app.contract.redis.watch_marks import WatchMarks
from app.jobs import follow
from app.jobs.follow import Feed, Following
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.anyio

JOB = "job_0123456789abcdef01234567"


@pytest.fixture
async def client(valkey_url: str, redis_client: redis.Redis) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(
        valkey_url.replace("valkey+unix://", "unix://"), decode_responses=True, socket_timeout=2 * WAIT_SECONDS
    ) as client:
        yield client


@pytest.fixture
async def feed(client: redis.asyncio.Redis) -> AsyncIterator[Feed]:
    feed = Feed(JobStore(client), EventStreams(client, waiting=client), WatchMarks(client))
    yield feed
    await feed.close()


async def tell(client: redis.asyncio.Redis, *steps: int, job: str = JOB) -> None:
    for step in steps:
        await client.xadd(EVENTS + job, {"event": "job.progress", "data": f'{{"step": {step}}}'})


async def hear(follower: Following, count: int) -> list[int]:
    heard: list[int] = []
    while len(heard) < count:
        news = await follower.next(WAIT_SECONDS)
        assert news, "nothing came in time"
        heard += [entry.data["step"] for _, entry in news]
    return heard


async def test_two_at_different_places_hear_the_same_story(feed: Feed, client: redis.asyncio.Redis) -> None:
    await tell(client, 1, 2)
    async with feed.follow({JOB: "0-0"}) as first:
        assert await hear(first, 2) == [1, 2]
        async with feed.follow({JOB: "0-0"}) as late:
            await tell(client, 3)
            assert await hear(late, 3) == [1, 2, 3]
            assert await hear(first, 1) == [3]


async def test_a_job_that_is_followed_later_is_read_at_once(
    feed: Feed, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when the read that is under way ends by itself, which is after the test has given up."""
    monkeypatch.setattr(follow, "LONGEST_BLOCK", 1.5 * WAIT_SECONDS)
    other = f"{JOB[:-1]}8"
    async with feed.follow({JOB: "0-0"}) as first:
        assert await first.next(0.05) == []
        await tell(client, 1, job=other)
        async with feed.follow({other: "0-0"}) as second:
            assert await second.next(WAIT_SECONDS)


async def test_one_who_is_slow_misses_nothing(feed: Feed, client: redis.asyncio.Redis) -> None:
    many = range(3 * READ_AT_ONCE)
    async with feed.follow({JOB: "0-0"}) as quick, feed.follow({JOB: "0-0"}) as slow:
        await tell(client, *many)
        assert await hear(quick, len(many)) == list(many)
        assert len(slow.places[JOB]._fresh) <= READ_AT_ONCE
        assert await hear(slow, len(many)) == list(many)


async def test_nobody_left_nothing_read(feed: Feed, client: redis.asyncio.Redis) -> None:
    async with feed.follow({JOB: "0-0"}):
        assert feed.listeners == 1
    assert (feed.listeners, feed._read_to) == (0, {})


async def test_closing_ends_every_follower(feed: Feed) -> None:
    async with feed.follow({JOB: "0-0"}) as follower:
        await feed.close()
        assert await follower.next(WAIT_SECONDS) is None
    async with feed.follow({JOB: "0-0"}) as late:
        assert await late.next(WAIT_SECONDS) is None


async def test_a_connection_that_dies_alone_is_not_heard_of(feed: Feed, client: redis.asyncio.Redis) -> None:
    async with feed.follow({JOB: "0-0"}) as follower:
        assert await follower.next(0.05) == []
        await client.client_kill_filter(_type="normal", skipme=True)
        await tell(client, 1, 2)
        assert await hear(follower, 2) == [1, 2]


async def test_redis_going_away_is_heard_and_the_next_one_reads_again(client: redis.asyncio.Redis) -> None:
    streams = Away(client, waiting=client)
    feed = Feed(JobStore(client), streams, WatchMarks(client))
    async with feed.follow({JOB: "0-0"}) as follower:
        with pytest.raises(redis.RedisError):
            await follower.next(WAIT_SECONDS)
    assert streams.asked == 2
    streams.is_away = False
    await tell(client, 1)
    async with feed.follow({JOB: "0-0"}) as again:
        assert await hear(again, 1) == [1]
    await feed.close()


class Away(EventStreams):
    """Streams of a Redis that refuses every connection, for a while."""

    is_away, asked = True, 0

    async def read(self, *args: Any, **options: Any) -> dict[str, list[Entry]]:
        if self.is_away:
            self.asked += 1
            raise redis.ConnectionError("refused")
        return await super().read(*args, **options)


async def test_several_jobs_are_one_listener_and_each_may_be_left(feed: Feed, client: redis.asyncio.Redis) -> None:
    other = f"{JOB[:-1]}8"
    await tell(client, 1)
    await tell(client, 2, job=other)
    async with feed.follow({other: "0-0"}) as companion, feed.follow({JOB: "0-0", other: "0-0"}) as following:
        assert feed.listeners == 2
        heard: list[tuple[str, Entry]] = []
        while len(heard) < 2:
            news = await following.next(WAIT_SECONDS)
            assert news, "nothing came in time"
            heard += news
        assert sorted((job, data["step"]) for job, (_, _, data) in heard) == [(JOB, 1), (other, 2)]
        following.drop(other)
        assert feed._read_to.keys() == {JOB, other}, "the other listener goes on"
        following.drop(JOB)
        assert feed._read_to.keys() == {other}
        assert await hear(companion, 1) == [2]
    assert (feed.listeners, feed._read_to) == (0, {})


@pytest.mark.parametrize("count", [1, READ_AT_ONCE, 3 * READ_AT_ONCE])
async def test_one_who_is_slow_misses_nothing_of_several_jobs(
    feed: Feed, client: redis.asyncio.Redis, count: int
) -> None:
    other = f"{JOB[:-1]}8"
    async with (
        feed.follow({JOB: "0-0", other: "0-0"}) as slow,
        feed.follow({JOB: "0-0"}) as quick,
    ):
        await tell(client, *range(count))
        await tell(client, *range(count), job=other)
        assert await hear(quick, count) == list(range(count))
        heard: dict[str, list[int]] = {JOB: [], other: []}
        while sum(map(len, heard.values())) < 2 * count:
            news = await slow.next(WAIT_SECONDS)
            assert news is not None
            for job, (_, _, data) in news:
                heard[job].append(data["step"])
        assert heard == {JOB: list(range(count)), other: list(range(count))}


async def test_the_events_of_several_jobs_end_with_the_last_ones(
    feed: Feed, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "HEARTBEAT_SECONDS", 0.0)
    other = f"{JOB[:-1]}8"
    story = [(JOB, "job.progress"), (other, "job.failed"), (JOB, "job.progress"), (JOB, "job.succeeded")]
    heard: list[tuple[str, str]] = []
    said = 0
    async with feed.follow({JOB: "0-0", other: "0-0"}) as following:
        async for news in following.events(until=time.monotonic() + WAIT_SECONDS):
            if news is not None:
                heard.append((news[0], news[1].event))
            elif said == len(heard):
                job, event = story[said]
                await client.xadd(EVENTS + job, {"event": event, "data": "{}"})
                said += 1
    assert heard == story
    assert feed._read_to == {}
