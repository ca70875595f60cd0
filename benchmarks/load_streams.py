"""A thousand open event streams: what each costs in memory, and how late its reader hears.

Knows server-sent events as bytes. A client library would measure itself.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import cast

from app.contract.redis.ownership import Claim, Ownership
from benchmarks.load_client import Address, Wires
from benchmarks.load_servers import CARD, PARAMETERS, Server

OPENED, TOLD = b"event: job\n", b"event: job.progress\n"
AT_ONCE = 32
"""Streams that are being opened at the same time: clients come one after the other."""

WARM = 100
"""Streams opened before the memory is looked at: the first ones pay for what all share."""

PATIENCE_SECONDS = 180


@dataclass(slots=True)
class Ear(asyncio.Protocol):
    """One stream's reader. `heard` gets the moment of the first progress event."""

    request: bytes
    opened: asyncio.Future[None]
    heard: asyncio.Future[float]
    _last: bytes = b""
    _transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        came, self._last = self._last + data, data[-32:]
        if not self.opened.done() and OPENED in came:
            self.opened.set_result(None)
        if not self.heard.done() and TOLD in came:
            self.heard.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        for waited in (self.opened, self.heard):
            if not waited.done():
                waited.set_exception(ConnectionError(f"the stream ended: {exc}"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True)
class Streams:
    """`kilobytes` of memory for each, in the gateway's processes; `late_ms` from telling an event to hearing it."""

    kilobytes: float
    late_ms: list[float]


async def streams(server: Server, *, count: int, events_a_second: float) -> Streams:
    """Open so many streams of running jobs, then tell each one thing, at this pace."""
    worker = Ownership(server.redis())
    jobs = await _running_jobs(server, worker, WARM + count)
    ears = await _open(server.address, jobs[:WARM])
    before = server.memory()
    ears += await _open(server.address, jobs[WARM:])
    kilobytes = (server.memory() - before) / 1024 / count
    late_ms = await _tell(worker, jobs, ears, events_a_second)
    for ear in ears:
        ear.close()
    return Streams(kilobytes, late_ms)


async def _running_jobs(server: Server, worker: Ownership, count: int) -> list[Claim]:
    async with Wires(server.address, AT_ONCE) as wires:
        request = server.address.post("/v1/jobs", PARAMETERS)
        answers = await asyncio.gather(*(wires.ask(request) for _ in range(count)))
    assert all(answer.status == 202 for answer in answers)
    return list(iter(lambda: worker.claim(CARD.name, "bench"), None))


async def _open(address: Address, jobs: list[Claim]) -> list[Ear]:
    loop, turns = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def open_one(job: Claim) -> Ear:
        ear = Ear(address.get(f"/v1/jobs/{job.id}/events"), loop.create_future(), loop.create_future())
        async with turns:
            await loop.create_connection(lambda: ear, address.host, address.port)
            await asyncio.wait_for(asyncio.shield(ear.opened), PATIENCE_SECONDS)
        return ear

    return list(await asyncio.gather(*map(open_one, jobs)))


async def _tell(worker: Ownership, jobs: list[Claim], ears: list[Ear], pace: float) -> list[float]:
    told, start = [], time.perf_counter()
    for number, job in enumerate(jobs):
        if (early := start + number / pace - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        told.append(time.perf_counter())
        await asyncio.to_thread(worker.progress, job, 5, CARD.num_inference_steps)
    heard = await asyncio.wait_for(asyncio.gather(*(ear.heard for ear in ears)), PATIENCE_SECONDS)
    return [(there - here) * 1000 for here, there in zip(told, heard, strict=True)]
