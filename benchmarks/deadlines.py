"""Deadlines at more load than one worker carries, in virtual time: `python -m benchmarks.deadlines`.

The same seeded Poisson trace of interactive and batch jobs of several callers goes through the real scripts on a real
Valkey, the worker's own road into the engine, and the real engine, in three ways:

- as the service does it: deadlines and batch jobs are what they are;
- the same without putting batch jobs aside (DARKROOM_PARK_SECONDS=0);
- first come, first served: nobody says how urgent a job is, or whose.

Only time is not real: a step takes so many milliseconds as `--step` and `--sample` say for the samples in it, and the
scripts are told what time it is. So the figures are the same on every machine, and how fast this one is shows in none.
Deadlines are a few times what the job takes in a full engine. At the end every job that was put aside is drawn again,
undisturbed. Prints markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import redis

from app.contract.common.logs import configure
from app.contract.messages.job import new_job_id
from app.contract.messages.new_job import NewJob
from app.contract.messages.spec import JobSpec
from app.contract.messages.urgency import ORDINARY, Urgency
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore
from benchmarks.engine import begin
from benchmarks.report import Column, add_option
from benchmarks.virtual_time import AsyncClient, Client, Time, valkey
from worker.arrivals import Arrivals
from worker.attempts import Attempts
from worker.engine.engine import Engine
from worker.engine.events import Failed, Finished
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle
from worker.parking import Parking

MODEL, WORKER = "simulated", "w1"
CALLERS = ("ann", "bob", "cid", "dee")
STEPS = {"interactive": (8, 12, 16), "batch": (20, 30)}
IMAGES = {"interactive": (1,), "batch": (1, 2, 4)}
PATIENCE = (2.0, 3.0, 5.0)
"""Deadlines, in times that a job takes in a full engine."""

TOGETHER = {
    "way": Column(label="way"),
    "met": Column(label="deadlines met", format=".1%"),
    "p50": Column(label="interactive p50, s", format=".2f"),
    "p95": Column(label="p95, s", format=".2f"),
    "batch": Column(label="batch pictures/s, virtual", format=".2f"),
    "parked": Column(label="times put aside"),
    "longest": Column(label="for at most, s", format=".1f"),
    "evaluations": Column(label="evaluations"),
    "needed": Column(label="of them needed", format=".2%"),
}

PICTURES = {
    "jobs": Column(label="jobs that were put aside"),
    "pictures": Column(label="their pictures"),
    "apart": Column(label="largest difference of a pixel, of 255"),
    "bits": Column(label="equal bit for bit, of the reproducible ones", format=".0%"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """`urgencies`: jobs say how urgent they are. `park`: seconds for which one may be put aside."""

    urgencies: bool
    park: float


WAYS = {
    "deadlines, batch makes room": Way(True, 60.0),
    "deadlines alone": Way(True, 0.0),
    "first come, first served": Way(False, 0.0),
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job and when it comes, in seconds since the start."""

    at: float
    tenant: str
    spec: JobSpec
    urgency: Urgency

    @property
    def evaluations(self) -> int:
        return self.spec.num_inference_steps * self.spec.num_images


@dataclass(slots=True)
class Outcome:
    """What one way made of the trace: when each job ended, what it drew, and what was computed for it."""

    ends: dict[int, float] = field(default_factory=dict)
    pictures: dict[int, list[np.ndarray]] = field(default_factory=dict)
    parked: list[int] = field(default_factory=list)
    longest: float = 0.0
    evaluations: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """Virtual seconds of a step, and of each sample in it. A decode counts as three samples."""

    step: float
    sample: float
    seats: int

    def of(self, samples: int, decodes: int) -> float:
        return self.step * bool(samples) + self.sample * (samples + 3 * decodes)

    @property
    def capacity(self) -> float:
        """Evaluations a second of a full engine."""
        return self.seats / self.of(self.seats, 0)


def main() -> None:
    options = _parser().parse_args()
    bundle, report = begin("deadlines", options)
    costs = Costs(options.step / 1000, options.sample / 1000, options.seats)
    trace = traced(bundle, costs, options)
    report.note(
        f"{options.jobs} jobs, {options.load:g} times the load, {options.interactive:.0%} of it interactive; "
        f"{options.seats} seats; a step {options.step:g} ms, {options.sample:g} ms for each sample; seed {options.seed}"
    )
    outcomes = {name: asyncio.run(served(bundle, trace, costs, way)) for name, way in WAYS.items()}
    for name, outcome in outcomes.items():
        report.add("together", TOGETHER, way=name, **_row(trace, outcome))
    report.add("pictures", PICTURES, **_compared(bundle, trace, outcomes[next(iter(WAYS))]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if missing")
    parser.add_argument("--side", type=int, help="pixels of a side; the model's own if missing")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--load", type=float, default=1.5, help="times what a full engine carries")
    parser.add_argument("--interactive", type=float, default=0.4, help="part of the load that is interactive")
    parser.add_argument("--reproducible", type=float, default=0.25, help="part of the batch jobs that is reproducible")
    parser.add_argument("--seats", type=int, default=8)
    parser.add_argument("--step", type=float, default=12, help="ms of a step")
    parser.add_argument("--sample", type=float, default=8, help="ms of each sample in it")
    parser.add_argument("--seed", type=int, default=1)
    add_option(parser)
    return parser


def traced(bundle: Bundle, costs: Costs, options: argparse.Namespace) -> list[Arrival]:
    """Both kinds arrive at random, each so often that its part of the load is what was asked for."""
    chance = random.Random(options.seed)
    parts = {"interactive": options.interactive, "batch": 1 - options.interactive}
    arrivals: list[Arrival] = []
    for priority, part in parts.items():
        each = _mean(STEPS[priority]) * _mean(IMAGES[priority])
        pace = part * options.load * costs.capacity / each
        at = 0.0
        for _ in range(round(options.jobs * pace / sum(_paces(costs, options)))):
            at += chance.expovariate(pace)
            arrivals.append(_arrival(bundle, costs, options, chance, priority, at))
    return sorted(arrivals, key=lambda arrival: arrival.at)


def _paces(costs: Costs, options: argparse.Namespace) -> Iterator[float]:
    for priority, part in (("interactive", options.interactive), ("batch", 1 - options.interactive)):
        yield part * options.load * costs.capacity / (_mean(STEPS[priority]) * _mean(IMAGES[priority]))


def _arrival(
    bundle: Bundle, costs: Costs, options: argparse.Namespace, chance: random.Random, priority: str, at: float
) -> Arrival:
    spec = JobSpec(
        model=MODEL,
        prompt="a red circle on a blue background",
        width=options.side or bundle.defaults.width,
        height=options.side or bundle.defaults.height,
        num_inference_steps=chance.choice(STEPS[priority]),
        guidance_scale=4.0,
        scheduler=chance.choice(("ddim", "euler_a", "dpmpp_2m")),
        seed=chance.randrange(2**32),
        reproducible=priority == "batch" and chance.random() < options.reproducible,
        num_images=chance.choice(IMAGES[priority]),
        output_format="png",
    )
    takes = spec.num_inference_steps * costs.of(costs.seats, 0) + costs.of(0, 1)
    urgency = (
        Urgency("batch") if priority == "batch" else Urgency(deadline_ms=round(1000 * takes * chance.choice(PATIENCE)))
    )
    return Arrival(at, chance.choice(CALLERS), spec, urgency)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


async def served(bundle: Bundle, trace: Sequence[Arrival], costs: Costs, way: Way) -> Outcome:
    """The whole trace, until its last job is over."""
    with valkey() as url:
        sync, waiting = Client.from_url(url, decode_responses=True), AsyncClient.from_url(url, decode_responses=True)
        try:
            return await _Service(bundle, sync, JobStore(waiting), costs, way).serve(trace)
        finally:
            sync.close()
            await waiting.aclose()


class _Service:
    """One worker and its queue."""

    def __init__(self, bundle: Bundle, client: redis.Redis, store: JobStore, costs: Costs, way: Way) -> None:
        self._time, self._store, self._costs, self._way = Time(client), store, costs, way
        self._ownership, self._attempts = Ownership(client), Attempts()
        self._engine = Engine(family_of(bundle), seats=costs.seats, clock=self._time)
        parking = Parking(self._engine, self._attempts, longest=way.park, clock=self._time, put_aside=self._note_parked)
        self._road = Arrivals(
            cast(Any, self._engine), cast(Any, None), self._attempts, cast(Any, SimpleNamespace()), parking=parking
        )
        self._numbers: dict[str, int] = {}
        self._claims: dict[str, Claim] = {}
        self._aside: dict[str, float] = {}
        self._outcome = Outcome()

    async def serve(self, trace: Sequence[Arrival]) -> Outcome:
        coming = [(arrival.at, number) for number, arrival in enumerate(trace)]
        heapq.heapify(coming)
        while coming or self._claims:
            while coming and coming[0][0] <= self._time.now:
                await self._submit(heapq.heappop(coming)[1], trace)
            self._take_in()
            if self._engine.idle:
                self._time.move(max(0.0, coming[0][0] - self._time.now))
                continue
            self._step()
        return self._outcome

    async def _submit(self, number: int, trace: Sequence[Arrival]) -> None:
        arrival = trace[number]
        urgency, tenant = (arrival.urgency, arrival.tenant) if self._way.urgencies else (ORDINARY, "all")
        job = NewJob(new_job_id(), tenant, arrival.spec, retention_ms=10**9, metadata={}, urgency=urgency)
        await self._store.submit(job, queue_limit=10**6, tenant_limit=10**6)
        self._numbers[job.id] = number

    def _take_in(self) -> None:
        """As worker/intake.py does it."""
        while self._road.seats_for_interactive:
            hurried = self._road.free_seats < 1
            claim = self._ownership.claim(MODEL, WORKER, holding=len(self._claims), interactive_only=hurried)
            if claim is None:
                break
            self._claims[claim.token] = claim
            self._attempts.open(claim)
            self._road.begin(claim)
        self._road.go_on()

    def _step(self) -> None:
        events = self._road.hear(self._engine.step())
        finished = [event for event in events if isinstance(event, Finished)]
        self._outcome.evaluations += self._engine.last_batch
        self._time.move(self._costs.of(self._engine.last_batch, sum(len(event.images) for event in finished)))
        for event in events:
            if isinstance(event, Failed):
                raise event.error
        for event in finished:
            self._end(self._claims.pop(event.request_id), event)
        self._note_back()

    def _end(self, claim: Claim, event: Finished) -> None:
        self._ownership.succeed(claim, [], timings={}, warnings=[], steps=event.steps)
        self._attempts.close(claim.token)
        number = self._numbers[claim.id]
        self._outcome.ends[number] = self._time.now
        self._outcome.pictures[number] = event.pictures

    def _note_parked(self, token: str) -> None:
        self._aside[token] = self._time.now
        self._outcome.parked.append(self._numbers[self._claims[token].id])

    def _note_back(self) -> None:
        for token in [token for token in self._aside if token not in self._claims or self._engine.seats_of(token)]:
            self._outcome.longest = max(self._outcome.longest, self._time.now - self._aside.pop(token))


def _row(trace: Sequence[Arrival], outcome: Outcome) -> Mapping[str, Any]:
    took = {number: outcome.ends[number] - arrival.at for number, arrival in enumerate(trace)}
    due = {number: ms / 1000 for number, arrival in enumerate(trace) if (ms := arrival.urgency.deadline_ms)}
    waits, last = sorted(took[number] for number in due), trace[-1].at
    batch = [number for number in range(len(trace)) if number not in due and outcome.ends[number] <= last]
    return {
        "met": sum(took[number] <= seconds for number, seconds in due.items()) / len(due),
        "p50": waits[len(waits) // 2],
        "p95": waits[int(0.95 * len(waits))],
        "batch": sum(trace[number].spec.num_images for number in batch) / last,
        "parked": len(outcome.parked),
        "longest": outcome.longest,
        "evaluations": outcome.evaluations,
        "needed": sum(arrival.evaluations for arrival in trace) / outcome.evaluations,
    }


def _compared(bundle: Bundle, trace: Sequence[Arrival], outcome: Outcome) -> Mapping[str, Any]:
    """What was put aside, beside the same drawn alone from its beginning to its end."""
    jobs, apart, same = sorted({*outcome.parked}), 0, []
    for number in jobs:
        engine = Engine(family_of(bundle), seats=4)
        engine.submit(Request.of("alone", trace[number].spec))
        events = []
        while not engine.idle:
            events += engine.step()
        [alone] = [event.pictures for event in events if isinstance(event, Finished)]
        pairs = list(zip(alone, outcome.pictures[number], strict=True))
        apart = max([apart, *(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)])
        if trace[number].spec.reproducible:
            same.append(all(np.array_equal(a, b) for a, b in pairs))
    pictures = sum(len(outcome.pictures[number]) for number in jobs)
    bits = sum(same) / len(same) if same else None
    return {"jobs": len(jobs), "pictures": pictures, "apart": apart, "bits": bits}


if __name__ == "__main__":
    configure("warning", process="deadlines")
    main()
