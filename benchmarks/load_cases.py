"""Kinds of traffic, each bounded in time and each counted: what came back, how late, and what was left behind.

Knows what is asked of a server. Refuses to know what a good figure is.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import time
from dataclasses import dataclass, field

from benchmarks.load_client import Answer, Tally, Wires, closed_loop, open_loop
from benchmarks.load_servers import CARD, PARAMETERS, Server

CONNECTIONS = 32
POLLS, ACCEPTS = 400, 50
"""A second."""

CAPACITY = 50
"""Jobs a second of the worker in the overload."""

TIMES = 5
QUEUE_LIMIT = 2 * CAPACITY
"""Two seconds of work."""

CALM_SECONDS = 4.0
DRAIN_SECONDS = 180.0


async def accepts(server: Server, *, seconds: float, most: float = math.inf) -> Tally:
    """Jobs sent in as fast as they are taken, over CONNECTIONS connections: for so long, or `most` in all."""
    request = server.address.post("/v1/jobs", PARAMETERS)
    async with Wires(server.address, CONNECTIONS) as wires:
        return (await closed_loop(CONNECTIONS, seconds, lambda: wires.ask(request), most=most)).only(202)


async def polls(server: Server, *, seconds: float) -> Tally:
    """POLLS status polls a second of queued jobs, while ACCEPTS jobs a second come in. What became of the polls."""
    submit = server.address.post("/v1/jobs", PARAMETERS)
    async with Wires(server.address, 2 * CONNECTIONS) as wires:
        ids = [json.loads((await wires.ask(submit)).body)["id"] for _ in range(50)]
        gets = [server.address.get(f"/v1/jobs/{job_id}") for job_id in ids]
        polled, accepted = await asyncio.gather(
            open_loop(POLLS, seconds, lambda number: wires.ask(gets[number % len(gets)])),
            open_loop(ACCEPTS, seconds, lambda _: wires.ask(submit)),
        )
    accepted.only(202)
    return polled.only(200)


@dataclass(frozen=True, slots=True)
class Overload:
    """`offered` is what came back of TIMES the capacity; the last refusal came `recovered` seconds after it ended."""

    offered: Tally
    recovered: float


async def overload(server: Server, *, seconds: float, calm_seconds: float = CALM_SECONDS) -> Overload:
    """TIMES as many jobs as the worker can do, then half as many as it can. The server needs QUEUE_LIMIT.

    AssertionError if an accepted job is not over DRAIN_SECONDS later, or if anything but 202, 429 and 503 came back.
    """
    submit, accepted, refused_at = server.address.post("/v1/jobs", PARAMETERS), list[str](), list[float]()

    async def send(wires: Wires) -> Answer:
        answer = await wires.ask(submit)
        if answer.status == 202:
            accepted.append(json.loads(answer.body)["id"])
        else:
            refused_at.append(time.perf_counter())
        return answer

    async with Wires(server.address, 2 * CONNECTIONS) as wires:
        offered = await open_loop(TIMES * CAPACITY, seconds, lambda _: send(wires))
        ended = time.perf_counter()
        calm = await open_loop(CAPACITY / 2, calm_seconds, lambda _: send(wires))
    for tally in (offered, calm):
        tally.only(202, 429, 503)
    await _all_over(server, accepted)
    return Overload(offered, max(0.0, refused_at[-1] - ended) if refused_at else 0.0)


@dataclass(slots=True)
class Soak:
    """A long calm. Memory in MB, one sample a second; `keys` of single jobs and MB in Redis when all was over."""

    accepted: Tally
    claimed_ms: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    descriptors: tuple[int, int] = (0, 0)
    redis_mb: tuple[float, float] = (0, 0)
    keys: int = 0

    def memory_slope(self) -> float:
        """MB in ten minutes, by least squares over the second half of the samples."""
        half = self.memory[len(self.memory) // 2 :]
        return statistics.linear_regression(range(len(half)), half).slope * 600


async def soak(server: Server, *, seconds: float) -> Soak:
    """ACCEPTS jobs a second; each is asked for a second later and must be over by then or at the next look.

    The server needs a worker and a retention of seconds. Waits until Redis has forgotten every job.
    """
    found = Soak(Tally())
    await _warm(server)
    found.descriptors = (server.descriptors(), 0)
    found.redis_mb = (_redis_mb(server), 0)
    sampler, followers = asyncio.create_task(_sample(server, found.memory)), list[asyncio.Task[None]]()
    submit = server.address.post("/v1/jobs", PARAMETERS)

    async def send(wires: Wires) -> Answer:
        answer = await wires.ask(submit)
        job_id = json.loads(answer.body)["id"]
        followers.append(asyncio.create_task(_see_it_end(wires, job_id, found.claimed_ms)))
        return answer

    async with Wires(server.address, CONNECTIONS) as wires:
        found.accepted = (await open_loop(ACCEPTS, seconds, lambda _: send(wires))).only(202)
        await asyncio.gather(*followers)
    sampler.cancel()
    found.keys = await _forgotten(server)
    found.descriptors, found.redis_mb = (
        (found.descriptors[0], server.descriptors()),
        (found.redis_mb[0], _redis_mb(server)),
    )
    return found


async def _warm(server: Server) -> None:
    """Have the gateway open what connections to Redis it will need."""
    nothing = server.address.get(f"/v1/jobs/job_{'0' * 24}")
    async with Wires(server.address, 2 * CONNECTIONS) as wires:
        (await closed_loop(2 * CONNECTIONS, 1.0, lambda: wires.ask(nothing))).only(404)
    await asyncio.sleep(1)


async def _see_it_end(wires: Wires, job_id: str, claimed_ms: list[float]) -> None:
    get, ends = wires.address.get(f"/v1/jobs/{job_id}"), time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < ends:
        await asyncio.sleep(1)
        job = json.loads((await wires.ask(get)).body)
        if job["status"] == "succeeded":
            return claimed_ms.append(job["timings"]["queued"] * 1000)
    raise AssertionError(f"{job_id} is not over")


async def _sample(server: Server, memory: list[float]) -> None:
    while True:
        memory.append(server.memory() / 2**20)
        await asyncio.sleep(1)


async def _all_over(server: Server, ids: list[str]) -> None:
    redis, ends = server.redis(), time.monotonic() + DRAIN_SECONDS
    while open_ := [job_id for job_id in ids if redis.hget(f"darkroom:job:{job_id}", "status") != "succeeded"]:
        assert time.monotonic() < ends, f"{len(open_)} accepted jobs are not over, such as {open_[0]}"
        await asyncio.sleep(0.2)


async def _forgotten(server: Server) -> int:
    """Keys that belong to single jobs, when there are none any more or the time is up."""
    ends = time.monotonic() + DRAIN_SECONDS
    while True:
        left = sum(1 for _ in server.redis().scan_iter("*job_*", count=1_000))
        if not left or time.monotonic() > ends:
            return left
        await asyncio.sleep(0.5)


def _redis_mb(server: Server) -> float:
    return float(server.redis().info("memory")["used_memory"]) / 2**20


def job_seconds(jobs_a_second: float) -> float:
    """How long each job of a worker with CARD's seats takes, if it does so many a second."""
    return CARD.seats / jobs_a_second
