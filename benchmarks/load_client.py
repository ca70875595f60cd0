"""HTTP for a load generator: bytes out, a status and bytes back. The figures are the server's, not a client library's.

Knows keep-alive connections and the clock. Refuses to know what is asked for, and every answer that has no length.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
WITHOUT_BODY = frozenset({204, 304})


class Broken(Exception):
    """The connection ended, or an answer cannot be read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `head` is its first line and headers."""

    status: int
    head: bytes
    body: bytes


class Wire(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._came = b""
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(f"the connection ended: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._came += data
        end = self._came.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head, status = self._came[:end], int(self._came[9:12])
        length = _LENGTH.search(head)
        if length is None and status not in WITHOUT_BODY:
            return self._answer.set_exception(Broken(f"an answer without a length: {head!r}"))
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._came) >= whole:
            answer, self._came = Answer(status, head, self._came[end + 4 : whole]), self._came[whole:]
            self._answer.set_result(answer)

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and wait for its answer. Raises Broken."""
        if self._transport is None or self._transport.is_closing():
            raise Broken("the connection has ended")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and how a request to it is written."""

    host: str
    port: int

    async def wire(self) -> Wire:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, self.host, self.port)
        return wire

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n\r\n".encode()

    def post(self, path: str, body: bytes) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class Tally:
    """How long each answer took, in ms, by its status."""

    took_ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def note(self, status: int, began: float) -> None:
        self.took_ms[status].append((time.perf_counter() - began) * 1000)

    def count(self, *statuses: int) -> int:
        """Answers with one of these statuses."""
        return sum(len(self.took_ms.get(status, ())) for status in statuses)

    def quantile(self, part: float, *statuses: int) -> float:
        """Of the answers with one of these statuses."""
        return quantile([ms for status in statuses for ms in self.took_ms.get(status, ())], part)

    def only(self, *statuses: int) -> Tally:
        """Itself. Raises AssertionError if anything else came back."""
        found = {status: len(took) for status, took in self.took_ms.items()}
        assert set(found) <= set(statuses), f"answers by status were {found}, not only {statuses}"
        return self


def quantile(values: Iterable[float], part: float) -> float:
    """`part` 0.99 is the 99th percentile, by nearest rank; nan of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


class Wires:
    """Connections that an open loop takes its turns on: the one that was idle first is taken first."""

    def __init__(self, address: Address, count: int) -> None:
        self.address = address
        self._count = count
        self._idle: asyncio.Queue[Wire] = asyncio.Queue()
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Wires:
        for _ in range(self._count):
            wire = await self.address.wire()
            self._closing.callback(wire.close)
            self._idle.put_nowait(wire)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._closing.aclose()

    async def ask(self, request: bytes) -> Answer:
        """On the next idle connection. A broken one is replaced."""
        wire = await self._idle.get()
        try:
            return await wire.ask(request)
        except Broken:
            wire.close()
            wire = await self.address.wire()
            self._closing.callback(wire.close)
            raise
        finally:
            self._idle.put_nowait(wire)


async def closed_loop(
    connections: int, seconds: float, send: Callable[[], Awaitable[Answer]], *, most: float = math.inf
) -> Tally:
    """So many clients, each of which asks again as soon as it is answered: for so long, or `most` times in all."""
    tally, ends, asked = Tally(), time.perf_counter() + seconds, 0

    async def one() -> None:
        nonlocal asked
        while (began := time.perf_counter()) < ends and asked < most:
            asked += 1
            tally.note((await send()).status, began)

    await asyncio.gather(*(one() for _ in range(connections)))
    return tally


async def open_loop(rate: float, seconds: float, send: Callable[[int], Awaitable[Answer]]) -> Tally:
    """`rate` requests a second whatever the answers do. Times count from the moment a request was due, as wrk2's do."""
    tally, tasks = Tally(), list[asyncio.Task[None]]()
    start = time.perf_counter()

    async def one(number: int, due: float) -> None:
        tally.note((await send(number)).status, due)

    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return tally
