"""More callers than connections to Redis: a burst queues, and a Redis that hangs fails everybody in time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.contract.redis import connections
from app.contract.redis.connections import FairPool, PatientRetry
from app.main import COMMAND_CONNECTIONS
from tests.app.conftest import Running
from tests.app.test_jobs import send
from tests.patience import PATIENCE

BURST = 200
assert BURST > 3 * COMMAND_CONNECTIONS

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pooled(url: str, *, connections: int, patience: float) -> AsyncIterator[redis.asyncio.Redis]:
    pool = FairPool.from_url(
        url,
        max_connections=connections,
        patience=patience,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 0),
    )
    client = redis.asyncio.Redis.from_pool(pool)
    yield client
    await client.aclose()


class ScriptedTime:
    """Seconds that go by when a test says so, and a microsecond at each look: no two are the same."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now


async def test_a_burst_waits_its_turn(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command keeps the only connection for half a second, so the last one waits longer than the patience."""
    clock, served = ScriptedTime(), list[int]()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.monotonic)
    monkeypatch.setattr(connections, "time", clock)

    async with pooled(valkey_url, connections=1, patience=1.5) as client:

        async def ask(number: int) -> None:
            connection = await client.connection_pool.get_connection()
            clock.now += 0.5
            await asyncio.sleep(0)
            served.append(number)
            await client.connection_pool.release(connection)

        await asyncio.gather(*map(ask, range(9)))
    assert clock.now > 104
    assert served == list(range(9)), "first come, first served"


@pytest.mark.parametrize(("seconds", "is_served"), [(1.6, False), (2.5, True)])
async def test_a_process_that_stood_still_does_not_take_its_queue_for_stuck(
    redis_client: redis.Redis,
    valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    is_served: bool,
) -> None:
    """Its time limits are over when it goes on, and were over long before it looked."""
    clock = ScriptedTime()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.monotonic)
    monkeypatch.setattr(connections, "time", clock)
    async with pooled(valkey_url, connections=1, patience=1.5) as client:
        held = await client.connection_pool.get_connection()
        waits = asyncio.create_task(client.ping())
        await asyncio.sleep(0)
        clock.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)
        await client.connection_pool.release(held)
        [answer] = await asyncio.gather(waits, return_exceptions=True)
    assert (answer is True, isinstance(answer, redis.ConnectionError)) == (is_served, not is_served)


@pytest.mark.parametrize(("late", "tries"), [(0.0, 1), (0.4, 1), (2.5, 2)])
async def test_a_call_is_made_again_after_the_process_stood_still(
    monkeypatch: pytest.MonkeyPatch, late: float, tries: int
) -> None:
    """A Redis that hangs is given up when the time is over; who notices that much later has not waited for it."""
    clock, tried = ScriptedTime(), list[int]()
    monkeypatch.setattr(connections, "time", clock)

    async def ask() -> str:
        tried.append(len(tried))
        if len(tried) == 1:
            clock.now += 1.5 + late
            raise redis.TimeoutError
        return "PONG"

    async def failed(error: Exception) -> None:
        return

    answers = await asyncio.gather(PatientRetry(seconds=1.5).call_with_retry(ask, failed), return_exceptions=True)
    assert len(tried) == tries
    assert isinstance(answers[0], redis.TimeoutError) == (tries == 1)


async def test_a_redis_that_hangs_fails_all_who_wait() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as hangs:
        url = f"redis://127.0.0.1:{hangs.getsockname()[1]}/0"
        async with pooled(url, connections=2, patience=0.2) as client:
            answers = await asyncio.gather(*(client.get("n") for _ in range(300)), return_exceptions=True)
    kinds = {type(answer) for answer in answers}
    assert kinds == {redis.ConnectionError, redis.TimeoutError}, "one after the other would only be timeouts"


async def test_who_leaves_the_queue_takes_no_turn_along(redis_client: redis.Redis, valkey_url: str) -> None:
    async with pooled(valkey_url, connections=1, patience=PATIENCE) as client:
        blocked = asyncio.create_task(client.blpop(["never"], timeout=60))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(client.ping()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in (*waiting[:4], blocked):
            task.cancel()
        assert await asyncio.wait_for(waiting[4], PATIENCE)
        assert await client.ping()


async def test_many_streams_opened_at_once_all_open(running: Running, client: object) -> None:
    jobs = [send(running.client)["id"] for _ in range(20)]
    start = asyncio.Event()

    async def opened(job_id: str) -> bytes:
        await start.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 200 "):
            await reader.readuntil(b"event: job")
        writer.close()
        return head.split(b"\r\n")[0]

    tasks = [asyncio.create_task(opened(jobs[n % len(jobs)])) for n in range(BURST)]
    start.set()
    async with asyncio.timeout(PATIENCE):
        heads = await asyncio.gather(*tasks)
    assert set(heads) == {b"HTTP/1.1 200 OK"}
