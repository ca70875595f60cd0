"""More callers than connections to Redis: a burst queues, and a Redis that hangs fails everybody in time."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
import redis
import redis.asyncio
import uvloop
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.contract.redis import connections
from app.contract.redis.connections import FairPool, StallAwareRetry, _Light
from app.wiring import COMMAND_CONNECTIONS
from tests.app.conftest import Running
from tests.app.test_jobs import send
from tests.waiting import WAIT_SECONDS

BURST = 200
assert BURST > 3 * COMMAND_CONNECTIONS

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pooled(
    url: str, *, connections: int, stalled_seconds: float, retries: int = 0
) -> AsyncIterator[redis.asyncio.Redis]:
    pool = FairPool.from_url(
        url,
        max_connections=connections,
        stalled_seconds=stalled_seconds,
        socket_timeout=stalled_seconds,
        socket_connect_timeout=stalled_seconds,
        retry=Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
    )
    client = redis.asyncio.Redis.from_pool(pool)
    yield client
    await client.aclose()


class ScriptedTime:
    """Seconds that go by when a test says so, and a microsecond at each look: no two are the same. For its own thread:
    a gateway that other tests share goes by the real ones."""

    def __init__(self) -> None:
        self.now, self._thread = 100.0, threading.get_ident()

    def monotonic(self) -> float:
        if threading.get_ident() != self._thread:
            return time.monotonic()
        self.now += 1e-6
        return self.now


async def test_a_burst_waits_its_turn(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command keeps the only connection for half a second, so the last one waits longer than that."""
    clock, served = ScriptedTime(), list[int]()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.monotonic)
    monkeypatch.setattr(connections, "time", clock)

    async with pooled(valkey_url, connections=1, stalled_seconds=1.5) as client:

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
    async with pooled(valkey_url, connections=1, stalled_seconds=1.5) as client:
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

    answers = await asyncio.gather(StallAwareRetry(seconds=1.5).call_with_retry(ask, failed), return_exceptions=True)
    assert len(tried) == tries
    assert isinstance(answers[0], redis.TimeoutError) == (tries == 1)


async def test_a_redis_that_hangs_fails_all_who_wait() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as hangs:
        url = f"redis://127.0.0.1:{hangs.getsockname()[1]}/0"
        async with pooled(url, connections=2, stalled_seconds=0.2) as client:
            answers = await asyncio.gather(*(client.get("n") for _ in range(300)), return_exceptions=True)
    kinds = {type(answer) for answer in answers}
    assert kinds == {redis.ConnectionError, redis.TimeoutError}, "one after the other would only be timeouts"


async def test_who_leaves_the_queue_takes_no_turn_along(redis_client: redis.Redis, valkey_url: str) -> None:
    async with pooled(valkey_url, connections=1, stalled_seconds=WAIT_SECONDS) as client:
        blocked = asyncio.create_task(client.blpop(["never"], timeout=60))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(client.ping()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in (*waiting[:4], blocked):
            task.cancel()
        assert await asyncio.wait_for(waiting[4], WAIT_SECONDS)
        assert await client.ping()


def test_a_connection_that_was_reset_while_it_lay_idle_is_replaced() -> None:
    """In uvloop, which the gateway runs in: it raises a RuntimeError where asyncio's own loop raises an OSError."""

    async def ask() -> tuple[list[object], int]:
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            with closing(writer), suppress(ConnectionError, asyncio.CancelledError):
                while asked := await reader.read(4_096):
                    writer.write(b"+OK\r\n" * asked.count(b"*"))

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0?protocol=2"
            async with pooled(url, connections=1, stalled_seconds=WAIT_SECONDS, retries=1) as client:
                connection = await client.connection_pool.get_connection()
                await client.connection_pool.release(connection)
                answers = [await client.get("n")]
                linger = struct.pack("ii", 1, 0)
                writers[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writers[0].transport.abort()
                with suppress(ConnectionError):
                    await connection._writer.wait_closed()
                answers += [await client.get("n"), await client.get("n")]
        return answers, len(writers)

    assert uvloop.run(ask()) == ([b"OK"] * 3, 2)


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "é"),
        ("CONFIG GET", b"\x00\xff"),
        (b"PUBSUB NUMSUB", "", 7, -(2**70), 0.1, 1e22, 1 / 3),
        ("SET", "k", memoryview(b"some"), bytearray(b"more")),
    ],
)
def test_commands_are_written_as_redis_py_writes_them(command: tuple[Any, ...]) -> None:
    pool = FairPool(max_connections=1, stalled_seconds=1)
    ours = pool.make_connection()  # type: ignore[no-untyped-call]
    assert b"".join(ours.pack_command(*command)) == b"".join(Connection().pack_command(*command))
    with pytest.raises(redis.DataError):
        ours.pack_command("SET", "k", None)


@pytest.mark.parametrize("scheme", ["redis://", "rediss://", "unix:///"])
def test_every_kind_of_connection_is_a_light_one(scheme: str) -> None:
    pool = FairPool.from_url(f"{scheme}somewhere", max_connections=1, stalled_seconds=1)
    assert issubclass(pool.connection_class, _Light)
    assert issubclass(pool.connection_class, parse_url(f"{scheme}somewhere").get("connection_class", Connection))


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
    async with asyncio.timeout(WAIT_SECONDS):
        heads = await asyncio.gather(*tasks)
    assert set(heads) == {b"HTTP/1.1 200 OK"}
