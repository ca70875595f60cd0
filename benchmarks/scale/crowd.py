"""A full cell: as many jobs as its workers have seats, of as many callers as there are, moved from one state to the
next all at once.

Each state is a moment of its own, so that what Redis spends on it, and how much it holds, can be told apart. Leases are
not renewed meanwhile: nobody judges them before the reaper's turn. Refuses to know clocks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from app.contract.messages.new_job import NewJob
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.jobs.housekeeping import Housekeeper
from benchmarks.scale.fairness import Turn
from benchmarks.scale.gateway import NO_LIMIT, gateway
from benchmarks.scale.meter import Meter, Spent
from benchmarks.scale.players import CARD, SEATS, job_of, succeed

STEPS = (10, 20, 50)
AT_ONCE = 32
"""Submits under way at the same time: Redis sees one after the other in any case."""

FLOOD = 0.4
"""The part of all jobs that one caller in a hundred sends, before anybody else does."""


@dataclass(slots=True)
class Crowded:
    """`states` by name: how many jobs went through it, and what that cost. `bytes_per_job` in three of them."""

    states: dict[str, tuple[int, Spent]] = field(default_factory=dict)
    bytes_per_job: dict[str, float] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    arrivals: list[Turn] = field(default_factory=list)
    reaped: int = 0
    rounds: int = 0
    requeued_after: float = 0.0


class Crowd:
    """`workers` of SEATS each, and `callers`."""

    def __init__(self, url: str, meter: Meter, *, workers: int, callers: int) -> None:
        self._url, self._meter = url, meter
        self._names = [f"worker-{number}" for number in range(workers)]
        self._callers = [f"caller-{number}" for number in range(callers)]
        self._ownership = Ownership(redis.Redis.from_url(url, decode_responses=True))
        self._redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self.found = Crowded()

    def move(self) -> Crowded:
        """From nothing to ended: queued, claimed, said to be drawn, renewed, lost with their workers, drawn again."""
        jobs = self._jobs()
        costs = {job.id: (job.tenant, job.cost) for job in jobs}
        self.found.arrivals = [costs[job.id] for job in jobs]
        empty = self._meter.memory()
        with self._state("submit", len(jobs)):
            asyncio.run(self._submit(jobs))
        self._weigh("queued", empty, len(jobs))
        with self._state("claim", len(jobs)):
            claims = self._claim(len(jobs))
        self.found.turns = [costs[claim.id] for claim in claims]
        with self._state("progress", len(jobs)):
            for claim in claims:
                self._ownership.progress(claim, 1, claim.spec.num_inference_steps)
        with self._state("beat", len(self._names)):
            for start in range(0, len(claims), SEATS):
                self._ownership.beat(claims[start : start + SEATS])
        self._weigh("running", empty, len(jobs))
        self._lose_all(len(jobs))
        again = self._claim(len(jobs))
        with self._state("finish", len(jobs)):
            for claim in again:
                succeed(self._ownership, claim)
        self._weigh("ended", empty, len(jobs))
        return self.found

    def _jobs(self) -> list[NewJob]:
        """A flood of one in a hundred callers comes first, then a job of everybody else."""
        chance, total = random.Random(11), len(self._names) * SEATS
        flooding = self._callers[: max(2, len(self._callers) // 100)]
        others = self._callers[len(flooding) :]
        flood = max(total - len(others), int(total * FLOOD))
        senders = [flooding[n % len(flooding)] for n in range(flood)] + others[: total - flood]
        return [job_of(sender, chance.choice(STEPS), chance) for sender in senders]

    async def _submit(self, jobs: list[NewJob]) -> None:
        turn = asyncio.Semaphore(AT_ONCE)
        async with gateway(self._url) as services:

            async def one(job: NewJob) -> None:
                async with turn:
                    await services.jobs.submit(job, **NO_LIMIT)

            # The first makes what all others share.
            await one(jobs[0])
            await asyncio.gather(*map(one, jobs[1:]))

    def _claim(self, jobs: int) -> list[Claim]:
        """All of them, a seat of each worker after the other. In this order."""
        claims = [self._ownership.claim(CARD.name, self._names[n % len(self._names)], holding=0) for n in range(jobs)]
        if None in claims:
            raise RuntimeError("jobs that were queued could not be claimed")
        return cast(list[Claim], claims)

    def _lose_all(self, jobs: int) -> None:
        """Every lease has run out at once, as if all workers had died; a gateway's housekeeping finds out."""
        for job_id in self._redis.zrange(keys.LEASES, 0, -1):
            self._redis.zadd(keys.LEASES, {job_id: 1})
        with self._state("reap", jobs) as spent:
            self.found.rounds = asyncio.run(self._keep_house())
        self.found.reaped = jobs - int(self._redis.zcard(keys.LEASES))
        rounds = (self.found.rounds - 1) * keys.REAP_SECONDS
        self.found.requeued_after = keys.LEASE_MS / 1000 + keys.REAP_SECONDS + rounds + spent.seconds

    async def _keep_house(self) -> int:
        """How many rounds it takes. The pauses between them are left out."""
        rounds = 0
        async with gateway(self._url) as services:
            keeper = Housekeeper(
                services.jobs, services.pictures, services.mark, services.inputs, closing=services.closing
            )
            while self._redis.zcard(keys.LEASES):
                self._redis.delete(keys.REAPER_LOCK)
                await keeper.round()
                rounds += 1
        return rounds

    @contextmanager
    def _state(self, name: str, jobs: int) -> Iterator[Spent]:
        with self._meter.spent() as spent:
            yield spent
        self.found.states[name] = (jobs, spent)

    def _weigh(self, name: str, empty: int, jobs: int) -> None:
        self.found.bytes_per_job[name] = (self._meter.memory() - empty) / jobs
