"""Batch jobs that make room in a real engine: what becomes of them, of their record and of what is counted.

A worker's own parts between the queue and the engine, with a real Valkey; each step is taken by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import redis.asyncio
from PIL import Image

from app.contract.messages.job import new_job_id
from app.contract.messages.new_job import NewJob
from app.contract.messages.spec import JobSpec
from app.contract.messages.urgency import Urgency
from app.contract.redis import keys
from app.contract.redis.ownership import Beat, Claim, Ownership
from app.contract.redis.snapshots import SnapshotRecords
from app.contract.redis.store import JobStore
from app.contract.redis.usage import UsageStore
from tests.engine.driving import StoppedClock, engine_of
from tests.engine.parking import undisturbed
from tests.engine.tiny_models import SIDE
from tests.waiting import WAIT_SECONDS, until
from worker.arrivals import Arrivals
from worker.attempts import Attempts, Stop
from worker.engine.engine import Engine
from worker.engine.events import LastEvent
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.fetching import Fetching
from worker.inputs import Inputs
from worker.listeners import Listeners
from worker.metrics import WorkerMetrics
from worker.models.bundle import Bundle
from worker.parking import Parking
from worker.provenance import Provenance
from worker.reporter import Reporter
from worker.snapshots import Limits, Snapshots
from worker.storage import ObjectStore

MODEL, TENANT, STEPS = "starter", "ann", 8
PROVENANCE = {MODEL: Provenance("f" * 64, "1", "2.13.0", "0.42.1", "cpu, x86_64", "float32", 2)}


class House:
    """A worker with two seats."""

    def __init__(
        self,
        bundle: Bundle,
        client: redis.Redis,
        folder: Path,
        *,
        name: str,
        park: float = 60.0,
        keeps: bool = True,
    ) -> None:
        """`keeps`: what a job that is put aside goes on from is kept for others at once."""
        self.name, self.client = name, client
        self.ownership, self.attempts, self.clock = Ownership(client), Attempts(), StoppedClock()
        self.engine = Engine(family_of(bundle), seats=2)
        self.ended = set[str]()
        """Tokens of those that the engine has done with."""
        store = ObjectStore.from_url(folder.as_uri())
        self.snapshots = Snapshots(
            SnapshotRecords(client), store, self.attempts, PROVENANCE, Limits(), clock=self.clock
        )
        self.reporter = Reporter(self.ownership, store, self.attempts, PROVENANCE, snapshots=self.snapshots)
        self.fetching = Fetching(Inputs(store), self.reporter)
        self.metrics = WorkerMetrics(self.engine, models=[MODEL])
        self.listeners = Listeners([self.metrics], reporter=self.reporter)
        parking = Parking(
            self.engine,
            self.attempts,
            longest=park,
            clock=self.clock,
            put_aside=self.listeners.put_aside,
            keep=self.snapshots.keep_if_room if keeps else None,
        )
        self.road = Arrivals(
            self.engine, self.fetching, self.attempts, self.reporter, snapshots=self.snapshots, parking=parking
        )

    def take_in(self) -> Claim | None:
        """The next job, as worker/intake.py asks for it."""
        if not self.road.seats_for_interactive:
            return None
        hurried = self.road.free_seats < 1
        held = len(self.attempts.claims())
        claim = self.ownership.claim(MODEL, self.name, holding=held, interactive_only=hurried)
        if claim is not None:
            self.attempts.open(claim)
            self.road.begin(claim)
        return claim

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine.wait_for_work(WAIT_SECONDS)
            events = self.road.hear(self.engine.step())
            self.ended |= {event.request_id for event in events if isinstance(event, LastEvent)}
            self.listeners.stepped(0.0, events)

    def draw(self, *claims: Claim) -> None:
        """Until they are over, and told."""
        while any(claim.token not in self.ended for claim in claims):
            self.step()
        for claim in claims:
            until(lambda claim=claim: self.attempts.get(claim.token) is None)

    def stop(self, claim: Claim, reason: Stop) -> None:
        """As worker/intake.py says it."""
        self.attempts.stop(claim.token, reason)
        (self.road.park if reason is Stop.GIVEN_BACK else self.road.cancel)(claim.token)

    def sampled(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    def close(self) -> None:
        for claim in self.attempts.claims():
            self.attempts.close(claim.token)
        self.reporter.close(seconds=0)
        self.snapshots.close()
        self.fetching.close()


class Town:
    """One queue, and the workers that take from it."""

    def __init__(self, bundle: Bundle, client: redis.Redis, url: str, folder: Path) -> None:
        self.bundle, self.client, self.url, self.folder = bundle, client, url, folder
        self.houses: list[House] = []
        self.made = 0
        """Evaluations of the job that is put aside, until then."""

    def house(self, **options: Any) -> House:
        name = f"w{len(self.houses) + 1}"
        self.houses.append(House(self.bundle, self.client, self.folder, name=name, **options))
        return self.houses[-1]

    def submit(self, priority: Any = "interactive", **changes: Any) -> JobSpec:
        plain: dict[str, Any] = {
            "model": MODEL,
            "prompt": "a red circle",
            "width": SIDE,
            "height": SIDE,
            "num_inference_steps": STEPS,
            "guidance_scale": 4.0,
            "scheduler": "euler_a",
            "seed": 7,
            "num_images": 1,
            "output_format": "png",
            "reproducible": True,
        }
        spec = JobSpec(**(plain | changes))
        job = NewJob(new_job_id(), TENANT, spec, retention_ms=60_000, metadata={}, urgency=Urgency(priority))
        self._ask(lambda client: JobStore(client).submit(job, queue_limit=10, tenant_limit=10))
        return spec

    def aside(self, house: House, **changes: Any) -> tuple[Claim, Claim]:
        """A batch job that was put aside after a few steps, and the interactive job that has one of its seats."""
        self.submit("batch", num_images=2, **changes)
        batch = house.take_in()
        assert batch is not None
        house.step(5)
        self.made = house.engine.work.evaluations
        self.submit(seed=3)
        urgent = house.take_in()
        assert urgent is not None
        house.step()
        assert house.engine.seats_of(batch.token) == 0, "it has left"
        assert house.engine.seats_of(urgent.token) == 1
        return batch, urgent

    def kept_at(self, claim: Claim) -> str | None:
        """The step of what others can go on from."""
        return self.client.hget(keys.SNAPSHOT + claim.id, "step")

    def record(self, claim: Claim) -> dict[str, str]:
        return self.client.hgetall(keys.JOB + claim.id)

    def events(self, claim: Claim) -> list[str]:
        return [fields["event"] for _, fields in self.client.xrange(keys.EVENTS + claim.id)]

    def evaluations(self) -> int:
        """That the tenant has used so far."""

        async def used(client: redis.asyncio.Redis) -> int:
            usage = UsageStore(client)
            today = await usage.today()
            return sum(each.evaluations for _, _, each in await usage.of(TENANT, today, today))

        return self._ask(used)

    def pictures(self, claim: Claim) -> list[np.ndarray]:
        files = sorted(file for file in self.folder.rglob("*.png") if claim.id in file.parts)
        return [np.asarray(Image.open(BytesIO(file.read_bytes()))) for file in files]

    def alone(self, claim: Claim) -> Sequence[np.ndarray]:
        """The same pictures of an engine that nobody disturbed."""
        return undisturbed(lambda: engine_of(self.bundle), Request.of("alone", claim.spec))["alone"].pictures

    def _ask(self, call: Callable[[redis.asyncio.Redis], Any]) -> Any:
        async def asked() -> Any:
            async with redis.asyncio.Redis.from_url(self.url, decode_responses=True) as client:
                return await call(client)

        return asyncio.run(asked())


@pytest.fixture
def town(epsilon_bundle: Bundle, redis_client: redis.Redis, valkey_url: str, tmp_path: Path) -> Iterator[Town]:
    town = Town(epsilon_bundle, redis_client, valkey_url, tmp_path / "pictures")
    yield town
    for house in town.houses:
        house.close()


@pytest.mark.parametrize("reproducible", [True, False])
def test_its_pictures_are_those_of_an_undisturbed_one(town: Town, reproducible: bool) -> None:
    house = town.house()
    batch, urgent = town.aside(house, reproducible=reproducible)
    house.draw(urgent)
    house.road.go_on()
    house.draw(batch)
    for ours, alone in zip(town.pictures(batch), town.alone(batch), strict=True):
        # Others in its batch may round otherwise; a picture has 255 steps for 5e-5.
        assert np.abs(ours.astype(int) - alone.astype(int)).max() <= (0 if reproducible else 1)
    assert town.evaluations() == 2 * STEPS + STEPS, "of two pictures and one, and none twice"


def test_to_the_caller_it_runs_all_the_time(town: Town) -> None:
    house = town.house()
    batch, urgent = town.aside(house)
    before, lease = town.record(batch), town.client.zscore(keys.LEASES, batch.id)
    assert before["status"] == "running"
    assert lease is not None
    assert house.ownership.beat(house.attempts.claims()) == [Beat.KEPT, Beat.KEPT]
    house.draw(urgent)
    assert town.record(batch)["status"] == "running"
    house.road.go_on()
    house.draw(batch)
    after = town.record(batch)
    assert (after["status"], after["attempt"], after.get("resumed_at_step", "0")) == ("succeeded", "1", "0")
    events = town.events(batch)
    assert (events[0], events[1], events[-1]) == ("job.queued", "job.started", "job.succeeded")
    assert set(events[2:-1]) <= {"job.progress"}


def test_what_an_operator_sees_of_it(town: Town) -> None:
    house = town.house()
    batch, urgent = town.aside(house)
    assert house.sampled("darkroom_jobs_parked_total") == 1
    assert house.sampled("darkroom_seats_in_use") == 1, "it holds none"
    house.draw(urgent)
    house.road.go_on()
    house.draw(batch)
    assert house.sampled("darkroom_jobs_resumed_total") == 0, "it lost no worker"
    assert house.metrics.registry.get_sample_value("darkroom_jobs_total", {"outcome": "succeeded"}) == 2
    assert not house.metrics.registry.get_sample_value("darkroom_jobs_total", {"outcome": "parked"})


def test_canceled_while_it_is_put_aside_it_ends_and_what_it_took_counts(town: Town) -> None:
    house = town.house()
    batch, urgent = town.aside(house)
    house.stop(batch, Stop.CANCELED)
    until(lambda: house.attempts.get(batch.token) is None)
    assert town.record(batch)["status"] == "canceled"
    assert town.evaluations() == town.made
    house.draw(urgent)
    house.road.go_on()
    assert house.engine.idle


def test_drained_while_it_is_put_aside_it_goes_on_elsewhere_where_it_stood(town: Town) -> None:
    house = town.house(keeps=False)
    batch, urgent = town.aside(house)
    house.draw(urgent)
    house.stop(batch, Stop.GIVEN_BACK)
    until(lambda: house.attempts.get(batch.token) is None)
    assert town.record(batch)["status"] == "queued"
    _goes_on_in(town, town.house(), batch)
    assert town.evaluations() == 2 * STEPS + STEPS, "none was made twice"


def test_killed_while_one_is_put_aside_it_goes_on_elsewhere_where_it_stood(town: Town) -> None:
    house = town.house()
    batch, _ = town.aside(house)
    until(lambda: town.kept_at(batch) is not None)
    house.ownership.worker_lost(house.name, "it was killed.")
    _goes_on_in(town, town.house(), batch)


def _goes_on_in(town: Town, house: House, batch: Claim) -> None:
    again = next(claim for _ in range(2) if (claim := house.take_in()) is not None and claim.id == batch.id)
    until(lambda: house.engine.seats_of(again.token) == 2)
    house.draw(again)
    record = town.record(again)
    assert (record["status"], record["attempt"]) == ("succeeded", "2")
    assert house.sampled("darkroom_evaluations_resumed_total") == town.made
    for ours, alone in zip(town.pictures(again), town.alone(batch), strict=True):
        assert np.array_equal(ours, alone)


def test_one_whose_lease_was_lost_meanwhile_is_let_go(town: Town) -> None:
    house = town.house()
    batch, urgent = town.aside(house)
    house.ownership.worker_lost(house.name, "it stood still.")
    claims = house.attempts.claims()
    assert house.ownership.beat(claims) == [Beat.LOST, Beat.LOST]
    house.stop(batch, Stop.LOST)
    until(lambda: house.attempts.get(batch.token) is None)
    assert town.record(batch)["status"] == "queued"
    house.stop(urgent, Stop.LOST)
    house.draw(urgent)
    house.road.go_on()
    assert house.engine.idle


def test_without_any_time_for_it_nobody_is_put_aside(town: Town) -> None:
    house = town.house(park=0.0)
    town.submit("batch", num_images=2)
    batch = house.take_in()
    assert batch is not None
    house.step(3)
    town.submit()
    assert house.take_in() is None
    house.draw(batch)
    assert house.take_in() is not None
    assert house.sampled("darkroom_jobs_parked_total") == 0
