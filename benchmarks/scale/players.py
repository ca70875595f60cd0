"""Who plays: a model that nobody serves, jobs as callers send them, and workers that draw nothing.

A worker here is the version's own intake, leases and reporter over a road on which a step is a pause. Knows a worker's
half of the contract. Refuses to know what is measured.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.job import Picture, new_job_id
from app.contract.messages.new_job import NewJob
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis.ownership import Claim, Ownership
from worker.attempts import Attempts
from worker.engine.events import Progress
from worker.intake import Intake
from worker.reporter import Reporter

SEATS = 16

CARD = ModelCard(
    name="scale", family="none", sha256="0" * 64, width=512, height=512, side_multiple=8, min_side=64, max_side=1024,
    max_steps=100, max_guidance_scale=20, max_images=4, max_work=2**40, num_inference_steps=20, guidance_scale=7.5,
    scheduler="ddim", schedulers=("ddim",), max_prompt_tokens=75, seats=SEATS,
)  # fmt: skip

WORDS = ("lighthouse", "storm", "copper", "teapot", "glacier", "market", "lantern", "orchard", "violin", "heron")
A_DAY_MS = 86_400_000


def job_of(caller: str, steps: int, chance: random.Random) -> NewJob:
    """A job as a caller might send it: a prompt of some seventy characters, one picture, no webhook."""
    prompt = "a photograph of " + ", ".join(chance.sample(WORDS, 7))
    request = JobRequest(prompt=prompt, seed=chance.randrange(2**32), num_inference_steps=steps)
    return NewJob(new_job_id(), caller, resolve(request, CARD), A_DAY_MS, {}, card=CARD)


def succeed(ownership: Ownership, claim: Claim) -> None:
    """The claim's one picture is stored, as far as Redis is told. RuntimeError if the job is no longer ours."""
    picture = Picture(
        index=0, key=f"images/{claim.id}/{claim.token}/0.png", sha256="0" * 64, seed=7, width=512, height=512,
        content_type="image/png", bytes=412_345,
    )  # fmt: skip
    steps = claim.spec.num_inference_steps
    timings = {"encode": 0.0312, "denoise": 2.7512, "decode": 0.0934, "upload": 0.0512}
    if not ownership.succeed(claim, [picture], timings=timings, warnings=[], steps=steps):
        raise RuntimeError(f"{claim.id} is no longer its worker's")


class Clock:
    """Calls what is due, in one thread for all workers of the process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Any]] = []
        self._numbers = itertools.count()
        threading.Thread(target=self._run, name="clock", daemon=True).start()

    def at(self, moment: float, call: Any) -> None:
        """`moment` is one of time.monotonic()."""
        with self._changed:
            heapq.heappush(self._due, (moment, next(self._numbers), call))
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                call = heapq.heappop(self._due)[2]
            call()


@dataclass(slots=True)
class Told:
    """What the workers of a fleet have seen."""

    waited_ms: list[int] = field(default_factory=list)
    ended: int = 0


class Road:
    """One worker's engine: each step of a job is a pause, and its end is told to Redis."""

    def __init__(self, ownership: Ownership, clock: Clock, told: Told, *, step_seconds: float) -> None:
        self._ownership, self._clock, self._told, self._step_seconds = ownership, clock, told, step_seconds
        self.attempts = Attempts()
        self._reporter: Any = Reporter(ownership, _Nothing(), self.attempts, _Nothing())  # type: ignore[arg-type]

    @property
    def free_seats(self) -> int:
        return SEATS - len(self.attempts.claims())

    @property
    def seats_for_interactive(self) -> int:
        return self.free_seats

    def go_on(self) -> None:
        """No job here makes room."""

    def cancel(self, token: str, /) -> None:
        """Nobody cancels here."""

    def begin(self, claim: Claim, /) -> None:
        self._told.waited_ms.append(claim.waited_ms)
        self._plan(claim, 1, time.monotonic())

    def _plan(self, claim: Claim, step: int, last: float) -> None:
        due = last + self._step_seconds
        self._clock.at(due, lambda: self._step(claim, step, due))

    def _step(self, claim: Claim, step: int, at: float) -> None:
        steps = claim.spec.num_inference_steps
        if step < steps:
            self._reporter.handle(Progress(claim.token, step, steps))
            self._plan(claim, step + 1, at)
            return
        succeed(self._ownership, claim)
        self.attempts.close(claim.token)
        self._told.ended += 1


class _Nothing:
    """In the place of the store of pictures: a reporter asks it nothing before a job ends."""


@contextmanager
def fleet(url: str, count: int, *, step_seconds: float) -> Iterator[Told]:
    """So many workers of the model, as they are run: each with its threads and connections, while the context lasts."""
    told, clock, running = Told(), Clock(), list[tuple[Intake, threading.Thread]]()
    ready = threading.Semaphore(0)
    for number in range(count):
        intake = _intake(url, f"worker-{number}", clock, told, step_seconds)
        thread = threading.Thread(target=intake.claim_until_stopped, kwargs={"registered": ready.release}, daemon=True)
        thread.start()
        running.append((intake, thread))
    for _ in running:
        ready.acquire()
    try:
        yield told
    finally:
        for intake, _ in running:
            intake.request_stop()
        for intake, thread in running:
            thread.join()
            intake.leave()


def _intake(url: str, name: str, clock: Clock, told: Told, step_seconds: float) -> Intake:
    ownership, leasing = (Ownership(redis.Redis.from_url(url, decode_responses=True)) for _ in range(2))
    road = Road(ownership, clock, told, step_seconds=step_seconds)
    return Intake(
        served=[(CARD, road)], name=name, connection=redis.Redis.from_url(url), ownership=ownership, leasing=leasing,
        attempts=road.attempts, may_claim=lambda: True,
    )  # fmt: skip


def register(url: str, names: list[str]) -> None:
    """Workers that Redis and RQ know, and that say nothing more: for a minute or two they count as there."""
    client, rqs = redis.Redis.from_url(url, decode_responses=True), redis.Redis.from_url(url)
    ownership = Ownership(client)
    for name in names:
        intake = Intake(
            served=[(CARD, _Nowhere())], name=name, connection=rqs, ownership=ownership, leasing=ownership,
            attempts=Attempts(), may_claim=lambda: False,
        )  # fmt: skip
        if rqs.exists(intake.key):
            intake.heartbeat()
        else:
            intake.register_birth()
        ownership.announce(CARD, name)


class _Nowhere:
    """A road that takes nothing."""

    free_seats = seats_for_interactive = 0

    def begin(self, claim: Claim, /) -> None:
        """Never called."""

    def go_on(self) -> None:
        """Nothing to do."""

    def cancel(self, token: str, /) -> None:
        """Never called."""
