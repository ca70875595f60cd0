"""Workers as they are run, in real time: what an idle one asks of Redis, and what a job costs that flows through them.

Knows clocks on the wall. Refuses to know what the workers do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import redis.asyncio
from pydantic import SecretStr

from app.jobs.follow import Feed
from app.services import Services
from app.settings import Settings
from benchmarks.scale.meter import Meter, Spent
from benchmarks.scale.players import Told, fleet, job_of, register

try:
    from app.wiring import open_services
except ImportError:  # The code of an older version is before ours in the path.
    from app.main import open_services  # type: ignore[attr-defined, no-redef]

NO_LIMIT = {"queue_limit": 10**7, "tenant_limit": 10**7}

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
    async with _gateway(url) as gateway:
        await gateway.jobs.submit(job_of("caller-0", 1, random.Random(0)), **NO_LIMIT)
        await _until_ended(told, 1)


async def _send(url: str, what: Flow, told: Told, callers: int) -> int:
    chance, before, sent = random.Random(17), told.ended, 0
    began, due, tasks = time.monotonic(), 0.0, list[asyncio.Task[None]]()
    async with _gateway(url) as gateway:
        while (due := due + chance.expovariate(what.rate)) < what.seconds:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            job = job_of(f"caller-{chance.randrange(callers)}", what.steps, chance)
            await gateway.jobs.submit(job, **NO_LIMIT)
            sent += 1
            if what.watched:
                tasks.append(asyncio.create_task(_watch(gateway.feed, job.id)))
        await _until_ended(told, before + sent)
        await asyncio.gather(*tasks)
    return sent


@asynccontextmanager
async def _gateway(url: str) -> AsyncIterator[Services]:
    """What a gateway of this version has behind its routes."""
    commands, waiting = (redis.asyncio.Redis.from_url(url, decode_responses=True) for _ in range(2))
    with TemporaryDirectory(prefix="scale-pictures-") as folder:
        settings = Settings(redis_url=SecretStr(url), storage_url=folder, signing_key=SecretStr("s" * 32))
        services = open_services(settings, commands, waiting)
        try:
            yield services
        finally:
            await services.feed.close()
            services.inputs.close()
            await commands.aclose()
            await waiting.aclose()


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
