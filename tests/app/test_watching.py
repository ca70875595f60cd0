"""Polls and streams tell the worker that somebody looks, and write no more than that takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import redis
import redis.asyncio

from app.contract.messages.events import Status
from app.contract.redis import keys
from app.contract.redis.store import JobStore
from app.contract.redis.streams import EventStreams
from app.jobs import watching
from app.jobs.follow import Feed
from app.jobs.watching import Watching
from tests.app.conftest import ScriptedWorker
from tests.engine.driving import StoppedClock
from tests.waiting import WAIT_SECONDS, until

pytestmark = pytest.mark.anyio


class Marks:
    """Notes what is marked; fails while Redis `is_away`."""

    def __init__(self) -> None:
        self.marked: list[set[str]] = []
        self.is_away = False
        self._changed = asyncio.Event()

    async def mark(self, job_ids: Any) -> None:
        self.marked.append(set(job_ids))
        self._changed.set()
        if self.is_away:
            raise redis.ConnectionError("away")

    async def until(self, times: int) -> None:
        while len(self.marked) < times:
            self._changed.clear()
            await self._changed.wait()


def record(job_id: str, status: Status = Status.RUNNING) -> Any:
    return SimpleNamespace(id=job_id, status=status)


async def test_a_poll_writes_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    marks, clock = Marks(), StoppedClock()
    made = Watching(marks, clock=lambda: clock.now)
    for _ in range(20):
        await made.looked_at(record("a"))
    await made.looked_at(record("over", Status.SUCCEEDED))
    assert marks.marked == [{"a"}]
    clock.now += keys.RENEW_WATCH_SECONDS
    await made.looked_at(record("a"))
    assert marks.marked == [{"a"}, {"a"}]


async def test_a_poll_is_answered_though_the_mark_was_not_taken() -> None:
    marks = Marks()
    marks.is_away = True
    await Watching(marks).looked_at(record("a"))
    assert marks.marked == [{"a"}]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_REMEMBERED", 3)
    made = Watching(Marks())
    for n in range(10):
        await made.looked_at(record(str(n)))
    assert list(made._marked) == ["7", "8", "9"]


@pytest.fixture
async def reader(valkey_url: str, redis_client: redis.Redis) -> AsyncIterator[redis.asyncio.Redis]:
    url = valkey_url.replace("valkey+unix://", "unix://")
    async with redis.asyncio.Redis.from_url(url, decode_responses=True) as made:
        yield made


async def test_a_stream_is_told_of_when_it_begins_and_while_it_lasts(reader: redis.asyncio.Redis) -> None:
    marks, clock = Marks(), StoppedClock()
    feed = Feed(JobStore(reader), EventStreams(reader, waiting=reader), marks, clock=lambda: clock.now)  # type: ignore[arg-type]
    async with feed.follow({"a": "0-0"}) as following, feed.follow({"waited for": "0-0"}, watched=False):
        await marks.until(1)
        async with feed.follow({"b": "0-0", "a": "0-0"}):
            await marks.until(2)
        for _ in range(20):
            await reader.xadd(keys.EVENTS + "a", {"event": "job.progress", "data": "{}"})
            assert await following.next(WAIT_SECONDS), "the reader has gone round once more"
        assert marks.marked == [{"a"}, {"b"}]
        clock.now += keys.RENEW_WATCH_SECONDS
        await reader.xadd(keys.EVENTS + "a", {"event": "job.progress", "data": "{}"})
        await marks.until(3)
        assert marks.marked[2] == {"a"}
    await feed.close()


async def test_who_only_waits_for_the_end_is_not_told_of(reader: redis.asyncio.Redis) -> None:
    marks = Marks()
    feed = Feed(JobStore(reader), EventStreams(reader, waiting=reader), marks)  # type: ignore[arg-type]
    async with feed.follow({"a": "0-0"}, watched=False) as following:
        await reader.xadd(keys.EVENTS + "a", {"event": "job.progress", "data": "{}"})
        assert await following.next(WAIT_SECONDS)
    await feed.close()
    assert marks.marked == []


@pytest.fixture
def gateway(client: httpx2.Client, worker: ScriptedWorker) -> httpx2.Client:
    """A worker has announced its model, and claims nothing."""
    return client


ASKS = {"the job": "/v1/jobs/{}", "Replicate's prediction": "/v1/predictions/{}"}


@pytest.mark.parametrize("path", ASKS.values(), ids=ASKS)
def test_a_poll_marks_the_record(gateway: httpx2.Client, redis_client: redis.Redis, path: str) -> None:
    job_id = gateway.post("/v1/jobs", json={"prompt": "a red circle"}).json()["id"]
    assert not redis_client.hexists(keys.JOB + job_id, "watched_ms")
    gateway.get("/v1/jobs")
    assert not redis_client.hexists(keys.JOB + job_id, "watched_ms"), "a list is not about one of them"
    assert gateway.get(path.format(job_id)).status_code == 200
    assert redis_client.hexists(keys.JOB + job_id, "watched_ms")


@pytest.mark.parametrize("path", ["/v1/jobs/{}/events", "/v1/predictions/{}/stream"])
def test_a_stream_marks_the_record(gateway: httpx2.Client, redis_client: redis.Redis, path: str) -> None:
    job_id = gateway.post("/v1/jobs", json={"prompt": "a red circle"}).json()["id"]
    with gateway.stream("GET", path.format(job_id)) as answer:
        assert answer.status_code == 200
        until(lambda: redis_client.hexists(keys.JOB + job_id, "watched_ms"))


def test_a_program_of_automatic1111_that_asks_for_progress_marks_the_record(
    gateway: httpx2.Client, redis_client: redis.Redis
) -> None:
    with ThreadPoolExecutor() as pool:
        picture = pool.submit(gateway.post, "/sdapi/v1/txt2img", json={"prompt": "a red circle"})
        [job] = until(lambda: redis_client.keys(keys.JOB + "*"))
        assert not redis_client.hexists(job, "watched_ms"), "who waits for the end does not look"
        until(lambda: gateway.get("/sdapi/v1/progress").json()["state"]["job_count"])
        assert redis_client.hexists(job, "watched_ms")
        gateway.post("/sdapi/v1/interrupt")
        picture.result(WAIT_SECONDS)
