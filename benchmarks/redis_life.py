"""What jobs, idle workers and one that waits for a job cost, over a Redis that a URL names: printed as JSON.

Run by benchmarks.redis_cost, as a program of its own: what it imports of the service is that of the version before or
of this one, whichever PYTHONPATH names. So it uses only what both have. Nothing is drawn: a step is a pause.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import redis
import redis.asyncio
import structlog

from app.contract.messages.card import ModelCard
from app.contract.messages.job import Picture, new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob
from worker.attempts import Attempts
from worker.engine.events import Progress
from worker.intake import Intake
from worker.reporter import Reporter

BEAT_SECONDS = 10.0


def card() -> ModelCard:
    """A model as any worker might announce it."""
    return ModelCard(
        name="measured", family="StableDiffusionPipeline", sha256="0" * 64, width=512, height=512, side_multiple=8,
        min_side=64, max_side=1024, max_steps=100, max_guidance_scale=20.0, max_images=4, max_work=1024 * 1024 * 400,
        num_inference_steps=20, guidance_scale=7.5, scheduler="dpmpp_2m", schedulers=("ddim", "euler", "dpmpp_2m"),
        max_prompt_tokens=75, seats=16,
    )  # fmt: skip


class Meter:
    """What Redis spent, by what it was spent on."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client
        self.spent: dict[str, dict[str, float]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Of the processor time of Redis' process, of the time inside scripts, and of calls, what falls into this."""
        before = self._read()
        yield
        after = self._read()
        into = self.spent.setdefault(name, dict.fromkeys(after, 0.0))
        for what, value in after.items():
            into[what] += value - before[what]

    def _read(self) -> dict[str, float]:
        info = self._client.info("cpu")
        stats = self._client.info("commandstats")
        scripts = stats.get("cmdstat_evalsha", {})
        inside = ("exec", "info", "evalsha", "ping", "hello")
        commands = sum(each["calls"] for name, each in stats.items() if name.removeprefix("cmdstat_") not in inside)
        return {
            "cpu_ms": 1000 * (info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]),
            "script_ms": scripts.get("usec", 0) / 1000,
            "scripts": scripts.get("calls", 0),
            "commands": commands,
        }


class Nothing:
    """In the place of the store of pictures, which the reporter of progress has no use for."""


async def life(url: str, *, jobs: int, steps: int, step_seconds: float, seats: int) -> dict[str, dict[str, float]]:
    """All of them side by side: accepted, claimed, drawn, ended, forgotten."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as of_gateway:
            return await _lived(client, of_gateway, jobs=jobs, steps=steps, step_seconds=step_seconds, seats=seats)


async def _lived(
    client: redis.Redis, of_gateway: redis.asyncio.Redis, *, jobs: int, steps: int, step_seconds: float, seats: int
) -> dict[str, dict[str, float]]:
    store, ownership, meter = JobStore(of_gateway), Ownership(client), Meter(client)
    spec = resolve(JobRequest(prompt="a lighthouse in a storm, oil on canvas", num_inference_steps=steps), card())
    ownership.announce(card(), "first")
    await _one(store, ownership, spec)
    new = [NewJob(new_job_id(), f"tenant-{n % 50}", spec, 86_400_000, {}) for n in range(jobs)]
    with meter.of("accept"):
        for job in new:
            await store.submit(job, queue_limit=10**6, tenant_limit=10**6)
    workers = [Worker(f"worker-{n}", Ownership(client)) for n in range(-(-jobs // seats))]
    with meter.of("claim"):
        for n in range(jobs):
            workers[n // seats].claim()
    with meter.of("progress"):
        _draw(workers, steps=steps, step_seconds=step_seconds)
    with meter.of("end"):
        for worker in workers:
            worker.finish(steps)
    with meter.of("forget"):
        for job in new:
            await store.forget(job.id)
    return meter.spent


async def _one(store: JobStore, ownership: Ownership, spec: Any) -> None:
    """The scripts are loaded, and RQ's hash is made, before anything is measured."""
    job = NewJob(new_job_id(), "tenant", spec, 86_400_000, {})
    await store.submit(job, queue_limit=10, tenant_limit=10)
    claim = ownership.claim("measured", "first")
    assert claim is not None
    ownership.beat([claim])
    ownership.succeed(claim, [], timings={}, warnings=[], steps=1)
    await store.forget(job.id)


class Worker:
    """Claims, beats, tells of steps as the reporter of its version does, and ends."""

    def __init__(self, name: str, ownership: Ownership) -> None:
        self.name, self.ownership, self.attempts = name, ownership, Attempts()
        self.claims: list[Claim] = []
        self.reporter: Any = Reporter(ownership, Nothing(), self.attempts, Nothing())  # type: ignore[arg-type]

    def claim(self) -> None:
        claim = self.ownership.claim("measured", self.name, holding=len(self.claims))
        assert claim is not None
        self.attempts.open(claim)
        self.claims.append(claim)

    def step(self, n: int, steps: int) -> None:
        for claim in self.claims:
            self.reporter.handle(Progress(claim.token, n, steps))

    def finish(self, steps: int) -> None:
        for claim in self.claims:
            pictures = [Picture.model_validate(PICTURE | {"key": f"images/{claim.id}/{claim.token}/0.png"})]
            said = self.ownership.succeed(claim, pictures, timings=TIMINGS, warnings=[], steps=steps)
            assert said
            self.attempts.close(claim.token)


PICTURE: dict[str, Any] = {
    "index": 0, "seed": 7, "width": 512, "height": 512, "bytes": 412_345, "sha256": "0" * 64,
    "content_type": "image/png",
}  # fmt: skip
TIMINGS = {"encode": 0.0312, "denoise": 2.7512, "decode": 0.0934, "upload": 0.0512}


def _draw(workers: list[Worker], *, steps: int, step_seconds: float) -> None:
    beat_at = time.monotonic() + BEAT_SECONDS
    began = time.monotonic()
    for n in range(1, steps + 1):
        time.sleep(max(0.0, began + n * step_seconds - time.monotonic()))
        for worker in workers:
            worker.step(n, steps)
        if time.monotonic() >= beat_at:
            beat_at += BEAT_SECONDS
            for worker in workers:
                worker.ownership.beat(worker.claims)
    for worker in workers:
        worker.reporter._over.set()
    time.sleep(0.3)


class Room:
    """A road with one free seat, that hears of each job it is given."""

    def __init__(self, begun: Callable[[Claim], None]) -> None:
        self.begin, self.free_seats, self.seats_for_interactive = begun, 1, 1

    def go_on(self) -> None:
        """No job here makes room."""

    def cancel(self, token: str, /) -> None:
        """Nothing here takes long enough to be called off."""


def waiting(url: str, name: str, begun: Callable[[Claim], None]) -> Attempts:
    """A real intake that has registered, in a thread of its own. Answers what it holds."""
    attempts, registered = Attempts(), threading.Event()
    intake = Intake(
        served=[(card(), Room(begun))], name=name, connection=redis.Redis.from_url(url), ownership=ownership_at(url),
        leasing=ownership_at(url), attempts=attempts, may_claim=lambda: True,
    )  # fmt: skip
    running = {"target": intake.claim_until_stopped, "kwargs": {"registered": registered.set}}
    threading.Thread(**running, daemon=True).start()  # type: ignore[arg-type]
    registered.wait()
    return attempts


def ownership_at(url: str) -> Ownership:
    return Ownership(redis.Redis.from_url(url, decode_responses=True))


async def idle(url: str, *, workers: int, seconds: float) -> dict[str, dict[str, float]]:
    """That many workers, which nobody has anything for."""
    meter = Meter(redis.Redis.from_url(url, decode_responses=True))
    for n in range(workers):
        waiting(url, f"worker-{n}", lambda claim: None)
    await asyncio.sleep(2)
    with meter.of("idle"):
        await asyncio.sleep(seconds)
    return meter.spent


async def claims(url: str) -> dict[str, tuple[float, int]]:
    """A worker, until its standard input ends. Of each job when it had it, by the clock of all processes, and how many
    ms lay between accept and claim by Redis' clock."""
    ownership, got = ownership_at(url), dict[str, tuple[float, int]]()

    def begun(claim: Claim) -> None:
        got[claim.id] = time.monotonic(), claim.waited_ms
        ownership.canceled(claim)
        attempts.close(claim.token)

    attempts = waiting(url, "worker", begun)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return got


async def submits(url: str, *, jobs: int, longest_pause: float) -> dict[str, float]:
    """Jobs, now and then: of each when it was sent."""
    spec, told, chance = resolve(JobRequest(prompt="a lighthouse in a storm"), card()), dict[str, float](), Random(7)
    async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
        store = JobStore(client)
        for _ in range(jobs):
            await asyncio.sleep(chance.uniform(0.02, longest_pause))
            job = NewJob(new_job_id(), "tenant", spec, 86_400_000, {})
            told[job.id] = time.monotonic()
            await store.submit(job, queue_limit=10**6, tenant_limit=10**6)
        await asyncio.sleep(2)
    return told


PARTS: dict[str, tuple[Callable[..., Any], dict[str, type]]] = {
    "life": (life, {"jobs": int, "steps": int, "step-seconds": float, "seats": int}),
    "idle": (idle, {"workers": int, "seconds": float}),
    "claims": (claims, {}),
    "submits": (submits, {"jobs": int, "longest-pause": float}),
}


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parts = parser.add_subparsers(dest="part", required=True)
    for part, (_, options) in PARTS.items():
        own = parts.add_parser(part)
        for option, kind in options.items():
            own.add_argument(f"--{option}", type=kind, required=True)
    given = vars(parser.parse_args())
    live, url = PARTS[given.pop("part")][0], given.pop("url")
    print(json.dumps(asyncio.run(live(url, **given))), flush=True)
    # Threads that wait for Redis are no reason to stay.
    os._exit(0)


if __name__ == "__main__":
    main()
