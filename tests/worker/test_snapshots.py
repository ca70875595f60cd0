"""Snapshots of a worker: kept beside the record or in the store, found by the next attempt, and taken in time."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import redis.asyncio
import torch
from structlog.testing import capture_logs

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id, new_token
from app.contract.messages.new_job import NewJob
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.snapshots import SnapshotRecords
from app.contract.redis.store import JobStore
from tests.engine.driving import StoppedClock
from tests.waiting import WAIT_SECONDS, until
from worker import snapshots
from worker.attempts import Attempts, Stop
from worker.cadence import Cadence
from worker.engine.events import EngineEvent, Parked, Progress, SnapshotTaken, Started, Stopped
from worker.engine.snapshot import SampleSnapshot, Snapshot
from worker.provenance import Provenance
from worker.reporter import Reporter
from worker.snapshots import BESIDE_RECORD, Limits, Snapshots
from worker.storage import ObjectStore

DRAWN_WITH = {"starter": Provenance("f" * 64, "1", "2.13.0", "0.42.1", "cpu, x86_64", "float32", 2)}


class Counted:
    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.looks: list[tuple[bool, bool]] = []
        self.repeated = 0

    def snapshot(self, outcome: str, size: int) -> None:
        self.outcomes.append(outcome)

    def looked_for(self, *, found: bool, is_refused: bool, repeated: int) -> None:
        self.repeated = repeated
        self.looks.append((found, is_refused))


class Scene:
    """A job that is claimed by one worker after the other."""

    def __init__(
        self, client: redis.Redis, url: str, card: ModelCard, folder: Path, *, reproducible: bool = False
    ) -> None:
        self.client, self.ownership = client, Ownership(client)
        self.attempts, self.counted, self.clock = Attempts(), Counted(), StoppedClock()
        self.folder = folder
        spec = resolve(JobRequest(prompt="a circle", seed=7, reproducible=reproducible), card)
        asyncio.run(_submit(url, NewJob(new_job_id(), "ann", spec, retention_ms=60_000, metadata={})))
        self.claim = self.claimed()

    def claimed(self) -> Claim:
        claim = self.ownership.claim("starter", "w1")
        assert claim is not None
        self.attempts.open(claim)
        return claim

    def next_attempt(self) -> Claim:
        assert self.ownership.give_back(self.claim, "worker-stopped")
        return self.claimed()

    def snapshots(self, drawn_with: Any = DRAWN_WITH, **limits: Any) -> Snapshots:
        store = ObjectStore.from_url(self.folder.as_uri())
        records = SnapshotRecords(self.client)
        return Snapshots(
            records, store, self.attempts, drawn_with, Limits(**limits), counts=self.counted, clock=self.clock
        )

    @property
    def objects(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*.safetensors") if path.is_file())


async def _submit(url: str, job: NewJob) -> None:
    async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
        await JobStore(client).submit(job, queue_limit=10, tenant_limit=10)


@pytest.fixture
def scene(redis_client: redis.Redis, valkey_url: str, card: ModelCard, tmp_path: Path) -> Scene:
    return Scene(redis_client, valkey_url, card, tmp_path / "pictures")


def snapshot(step: int = 3, *, bytes: int = 0) -> Snapshot:
    picture = np.random.default_rng(step).integers(0, 256, (1, max(1, bytes // 3), 3), np.uint8) if bytes else None
    began = torch.zeros(8, dtype=torch.uint8)
    sample = SampleSnapshot(index=0, seed=7, mode="shared", step=step, number=0, ended=[], began=began, picture=picture)
    return Snapshot(request="", passes=[], drawn_with={}, samples=[sample], wanted=1)


def test_a_small_one_lies_beside_the_record(scene: Scene) -> None:
    own = scene.snapshots()
    assert own.find(scene.claim) is None, "a first attempt asks for nothing"
    assert own.keep(scene.claim, snapshot(3)) == "kept"
    assert own.keep(scene.claim, snapshot(5)) == "kept"
    scene.ownership.progress(scene.claim, 9, 20)
    found = own.find(scene.next_attempt())
    assert found is not None
    assert (found.step, found.samples[0].seed) == (5, 7)
    assert scene.counted.repeated == 4
    assert scene.objects == []
    assert scene.counted.outcomes == ["kept", "kept"]
    assert scene.counted.looks == [(True, False)]


def test_a_large_one_lies_in_the_store_and_the_one_before_stays_whole(scene: Scene) -> None:
    own = scene.snapshots()
    for step in (3, 5, 7):
        assert own.keep(scene.claim, snapshot(step, bytes=2 * BESIDE_RECORD)) == "kept"
    assert len(scene.objects) == 2
    assert all(path.is_relative_to(scene.folder / "snapshots" / scene.claim.id) for path in scene.objects)
    found = own.find(scene.next_attempt())
    assert found is not None
    assert found.step == 7
    assert np.array_equal(found.samples[0].picture, snapshot(7, bytes=2 * BESIDE_RECORD).samples[0].picture)


def test_one_that_is_damaged_or_gone_is_refused(scene: Scene) -> None:
    own = scene.snapshots()
    own.keep(scene.claim, snapshot(3, bytes=2 * BESIDE_RECORD))
    [file] = scene.objects
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    second = scene.next_attempt()
    with capture_logs() as logs:
        assert own.find(second) is None
        file.unlink()
        assert own.find(second) is None
    assert [line["event"] for line in logs].count("a snapshot is refused; the job starts over") == 2
    assert scene.counted.looks == [(False, True)] * 2


@pytest.mark.parametrize(("reproducible", "is_found"), [(False, True), (True, False)])
def test_bits_are_promised_on_one_kind_of_machine(
    redis_client: redis.Redis, valkey_url: str, card: ModelCard, tmp_path: Path, reproducible: bool, is_found: bool
) -> None:
    scene = Scene(redis_client, valkey_url, card, tmp_path, reproducible=reproducible)
    scene.snapshots().keep(scene.claim, snapshot())
    other = Provenance("f" * 64, "2", "2.13.0", "0.42.1", "cuda, H100", "float32", 2)
    assert (scene.snapshots({"starter": other}).find(scene.next_attempt()) is not None) == is_found


def test_another_model_of_the_name_starts_over(scene: Scene) -> None:
    scene.snapshots().keep(scene.claim, snapshot())
    other = Provenance("0" * 64, "1", "2.13.0", "0.42.1", "cpu, x86_64", "float32", 2)
    assert scene.snapshots({"starter": other}).find(scene.next_attempt()) is None


def test_one_that_is_too_large_is_not_kept_and_said_once(scene: Scene) -> None:
    own = scene.snapshots(most_bytes=1_000)
    with capture_logs() as logs:
        assert own.keep(scene.claim, snapshot(bytes=2_000)) == "too-large"
        assert own.keep(scene.claim, snapshot(bytes=2_000)) == "too-large"
    assert len([line for line in logs if "too-large" in line["event"]]) == 1


def test_what_is_no_longer_ours_is_not_kept(scene: Scene) -> None:
    own = scene.snapshots()
    scene.next_attempt()
    for size in (0, 2 * BESIDE_RECORD):
        assert own.keep(scene.claim, snapshot(bytes=size)) == "not-ours"
    assert scene.objects == []


def test_redis_and_store_may_be_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    own = scene.snapshots()
    second = scene.next_attempt()

    def gone(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(SnapshotRecords, "keep", gone)
    monkeypatch.setattr(SnapshotRecords, "find", gone)
    assert own.keep(second, snapshot()) == "failed"
    assert own.find(second) is None


def test_whatever_reading_one_raises_the_job_starts_over(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    own = scene.snapshots()
    own.keep(scene.claim, snapshot())

    def full(*_: Any) -> None:
        raise MemoryError("no memory is left")

    monkeypatch.setattr(snapshots, "read", full)
    assert own.find(scene.next_attempt()) is None
    assert scene.counted.looks == [(False, False)]


def test_one_that_comes_after_the_end_breaks_no_engine(scene: Scene) -> None:
    own = scene.snapshots()
    own.close()
    own.keep_soon(scene.claim.token, snapshot())
    own.keep_at_last(scene.claim, snapshot())
    assert scene.counted.outcomes == []


def test_a_job_is_handed_back_while_the_store_hangs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last snapshot is worth a moment and no more: one unsaid hand-back counts as a death."""
    monkeypatch.setattr(snapshots, "LAST_SECONDS", 0.05)
    own, is_away, asked = scene.snapshots(), threading.Event(), list[str]()

    def hangs(_: ObjectStore, key: str, *__: Any, **___: Any) -> None:
        asked.append(key)
        is_away.wait(WAIT_SECONDS)

    monkeypatch.setattr(ObjectStore, "put_snapshot", hangs)
    submit = own._last_writers.submit

    def begun(*given: Any) -> Any:
        """The time that is left begins once the store has been asked: a hand-back before that would keep it unasked."""
        writes = submit(*given)
        until(lambda: asked)
        return writes

    monkeypatch.setattr(own._last_writers, "submit", begun)
    store = ObjectStore.from_url(scene.folder.as_uri())
    reporter = Reporter(scene.ownership, store, scene.attempts, DRAWN_WITH, snapshots=own)
    try:
        scene.attempts.stop(scene.claim.token, Stop.GIVEN_BACK)
        reporter.handle(Parked(scene.claim.token, snapshot(bytes=2 * BESIDE_RECORD)))
        until(lambda: scene.client.hget(keys.JOB + scene.claim.id, "status") == "queued")
        assert len(asked) == 1
        assert scene.counted.outcomes == [], "the store has not answered yet"
        scene.clock.now += 1
        own.keep_at_last(scene.claim, snapshot(bytes=2 * BESIDE_RECORD))
        assert len(asked) == 1, "all of them have the one time"
        is_away.set()
        until(lambda: scene.counted.outcomes == ["not-ours"])
    finally:
        is_away.set()
        reporter.close(seconds=WAIT_SECONDS)
        own.close()


def test_so_many_bytes_a_second_and_no_more(scene: Scene) -> None:
    own = scene.snapshots(bytes_per_second=1_000)
    assert own.room > 0
    own.keep(scene.claim, snapshot(bytes=30_000))
    assert own.room == 0
    scene.clock.now += 29
    assert own.room == 0
    scene.clock.now += 4
    assert own.room > 0


def test_one_that_was_made_in_vain_is_not_made_again_for_a_while(scene: Scene) -> None:
    """It was copied and written in full, of a job that can have a gigabyte of it. Each time it rests for longer."""
    own, token = scene.snapshots(most_bytes=1_000), scene.claim.token
    rests = list[float]()
    for _ in range(8):
        assert not own.rests(token)
        assert own.keep(scene.claim, snapshot(bytes=2_000)) == "too-large"
        assert not own.rests("another job")
        rests.append(0.0)
        while own.rests(token):
            scene.clock.now += 10.0
            rests[-1] += 10.0
    assert rests[:4] == [10.0, 20.0, 40.0, 80.0]
    assert max(rests) == 300.0
    assert own.keep(scene.claim, snapshot()) == "kept"
    assert not own.rests(token)
    own.keep(scene.claim, snapshot(bytes=2_000))
    scene.clock.now += 10.0
    assert not own.rests(token), "as at first"


def test_while_the_stores_are_away_a_job_rests_as_well(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(SnapshotRecords, "keep", gone)
    own = scene.snapshots()
    assert own.keep(scene.claim, snapshot()) == "failed"
    assert own.rests(scene.claim.token)


def test_what_is_put_aside_is_kept_within_the_limits(scene: Scene) -> None:
    own = scene.snapshots(bytes_per_second=1_000)
    own.keep_if_room(scene.claim.token, snapshot(3))
    until(lambda: scene.counted.outcomes == ["kept"])
    own.keep(scene.claim, snapshot(4, bytes=30_000))
    own.keep_if_room(scene.claim.token, snapshot(5))
    scene.clock.now += 100.0
    own.keep_if_room(scene.claim.token, snapshot(6))
    until(lambda: len(scene.counted.outcomes) == 3)
    assert scene.client.hget(keys.SNAPSHOT + scene.claim.id, "step") == "6"
    own.close()


class Asked:
    """What a cadence asks of an engine, whose clock is the test's."""

    def __init__(self, scene: Scene, **limits: Any) -> None:
        self.tokens: list[str] = []
        self.snapshots = scene.snapshots(**limits)
        self.cadence = Cadence(self.snapshots, self.tokens.append)
        self._clock = scene.clock

    def step(self, *events: EngineEvent, seconds: float = 1.0) -> None:
        self._clock.now += seconds
        self.cadence.stepped(events)


def test_every_few_seconds_of_each_job_that_gets_on(scene: Scene) -> None:
    asked = Asked(scene, seconds=2.0)
    asked.step(Started("a"), Progress("a", 1, 20), Started("b"))
    asked.step(Progress("a", 2, 20))
    assert asked.tokens == []
    asked.step(Progress("a", 3, 20))
    assert asked.tokens == ["a"], "b stands where it began"
    asked.step(Progress("a", 4, 20), Progress("b", 1, 20))
    assert asked.tokens == ["a", "b"]
    asked.step(Stopped("b"), Progress("a", 5, 20))
    asked.step(Progress("b", 2, 20), seconds=9.0)
    assert asked.tokens == ["a", "b", "a"]


def test_a_job_that_takes_less_time_has_them_sooner(scene: Scene) -> None:
    """A tenth of its expected time apart, and no less than a fifth of a second."""
    asked = Asked(scene, seconds=2.0)
    asked.step(Started("short"), Started("resumed", 10), Started("instant"))
    for step in range(1, 10):
        asked.step(Progress("short", step, 10), Progress("resumed", 10 + step, 20), seconds=0.5)
    assert asked.tokens.count("short") == 8, "5 s, of which every half is kept, once its pace is known"
    assert asked.tokens.count("resumed") == 4, "10 s: what was behind it took no time here"
    for step in range(1, 5):
        asked.step(Progress("instant", step, 5), seconds=0.001)
    assert asked.tokens.count("instant") == 1


def test_who_has_waited_longest_is_first_and_no_more_than_can_be_kept(scene: Scene) -> None:
    asked = Asked(scene, seconds=2.0)
    tokens = [f"job {k}" for k in range(20)]
    order = random.Random(1).sample(tokens, len(tokens))
    for token in order:
        asked.step(Started(token), seconds=0.01)
    asked.step(*(Progress(token, 1, 20) for token in tokens), seconds=5.0)
    assert asked.tokens == order[: len(asked.tokens)]
    assert 0 < len(asked.tokens) < len(tokens)


def test_a_job_that_rests_is_not_asked_for_one(scene: Scene) -> None:
    asked, token = Asked(scene, seconds=2.0, most_bytes=1_000), scene.claim.token
    asked.step(Started(token), Started("other"))
    asked.snapshots.keep(scene.claim, snapshot(bytes=2_000))
    for step in range(1, 9):
        asked.step(Progress(token, step, 20), Progress("other", step, 20))
    assert set(asked.tokens) == {"other"}
    asked.step(Progress(token, 9, 20), seconds=10.0)
    assert token in asked.tokens


def test_what_was_taken_is_kept_in_the_background(scene: Scene) -> None:
    asked = Asked(scene)
    asked.step(SnapshotTaken(scene.claim.token, snapshot(9)), SnapshotTaken(new_token(), snapshot(9)))
    until(lambda: scene.counted.outcomes)
    assert scene.client.hget(keys.SNAPSHOT + scene.claim.id, "step") == "9"
    assert scene.counted.outcomes == ["kept"], "of a job that has gone nothing is kept"
    asked.snapshots.close()
