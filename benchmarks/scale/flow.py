"""Workers as they are run, in real time: what an idle one asks of Redis, and what a job costs that flows through them.

Knows clocks on the wall. Refuses to know what the workers do.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from app.jobs.follow import Feed
from benchmarks.scale.gateway import NO_LIMIT, gateway
from benchmarks.scale.meter import Meter, Spent
from benchmarks.scale.players import Told, fleet, job_of, register

LONGEST_SECONDS = 600.0
"""After which something hangs, on a machine however slow."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Jobs that come in by chance, `rate` a second for `seconds`, each drawn in `steps` steps of `step_seconds`.

    `watched`: each is followed by its caller, as an open event stream follows it.
    """

    rate: float
    seconds: float
    steps: int
    step_seconds: float
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Flowed:
    """What became of it, in `seconds` from the first job to the end of the last."""

    jobs: int
    seconds: float
    spent: Spent
    waited_ms: list[int]


def idle(url: str, meter: Meter, *, workers: int, registered: int, seconds: float) -> Spent:
    """What `workers` of `registered` ask within so many seconds while there is nothing to do."""
    register(url, [f"other-{number}" for number in range(registered - workers)])
    with fleet(url, workers, step_seconds=1):
        # What they ask at the start is not of the idle.
        time.sleep(min(1.0, seconds))
        with meter.spent() as spent:
            time.sleep(seconds)
    return spent


def flow(url: str, meter: Meter, what: Flow, *, workers: int, callers: int) -> Flowed:
    """Jobs of `callers` through so many workers."""
    with fleet(url, workers, step_seconds=what.step_seconds) as told:
        asyncio.run(_warm(url, told))
        told.waited_ms.clear()
        began = time.monotonic()
        with meter.spent() as spent:
            jobs = asyncio.run(_send(url, what, told, callers))
        return Flowed(jobs, time.monotonic() - began, spent, told.waited_ms)


async def _warm(url: str, told: Told) -> None:
    """Scripts are loaded and RQ's hash is made before anything is measured."""
    async with gateway(url) as services:
        await services.jobs.submit(job_of("caller-0", 1, random.Random(0)), **NO_LIMIT)
        await _until_ended(told, 1)


async def _send(url: str, what: Flow, told: Told, callers: int) -> int:
    chance, before, sent = random.Random(17), told.ended, 0
    began, due, tasks = time.monotonic(), 0.0, list[asyncio.Task[None]]()
    async with gateway(url) as services:
        while (due := due + chance.expovariate(what.rate)) < what.seconds:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            job = job_of(f"caller-{chance.randrange(callers)}", what.steps, chance)
            await services.jobs.submit(job, **NO_LIMIT)
            sent += 1
            if what.watched:
                tasks.append(asyncio.create_task(_watch(services.feed, job.id)))
        await _until_ended(told, before + sent)
        await asyncio.gather(*tasks)
    return sent


async def _watch(feed: Feed, job_id: str) -> None:
    async with feed.follow({job_id: "0-0"}) as following:
        async for _ in following.events(until=time.monotonic() + LONGEST_SECONDS):
            pass


async def _until_ended(told: Told, jobs: int) -> None:
    ends = time.monotonic() + LONGEST_SECONDS
    while told.ended < jobs:
        if time.monotonic() > ends:
            raise TimeoutError(f"{jobs - told.ended} of {jobs} jobs have not ended")
        await asyncio.sleep(0.05)
