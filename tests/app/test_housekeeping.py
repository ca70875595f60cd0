"""The rounds nobody asks for: lost jobs come back, kept ones are forgotten, faults are survived."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import redis
import structlog

from app.contract.messages.card import Adapter, ModelCard
from app.contract.objects.names import snapshot_key
from app.contract.objects.store import PROBES
from app.contract.redis import keys
from app.contract.redis.inputs import InputStore
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore
from app.jobs.cell_mark import CellMark
from app.jobs.housekeeping import BATCH, Housekeeper
from app.jobs.inputs import Inputs
from app.jobs.model_registry import ModelRegistry
from app.jobs.room import Room
from app.pictures.errors import PictureStoreError
from app.pictures.store import PictureStore
from app.settings import Settings
from tests.app.conftest import ScriptedWorker
from tests.app.test_jobs import send
from tests.waiting import WAIT_SECONDS, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[JobStore]:
    client = redis.asyncio.Redis.from_url(valkey_url, decode_responses=True)
    yield JobStore(client)
    await client.aclose()


@pytest.fixture
def housekeeper(store: JobStore, settings: Settings, redis_client: redis.Redis) -> Housekeeper:
    return housekeeper_of(store, settings.storage_url)


def housekeeper_of(store: JobStore, storage_url: str) -> Housekeeper:
    pictures = PictureStore.from_url(storage_url, signing_key=b"s" * 32)
    mark = CellMark(store, pictures, None)
    room = Room(ModelRegistry(store), pictures, mark, reserve_bytes=0)
    bounds = {"most_bytes": 2**20, "most_bytes_held": 0, "retention_ms": 60_000}
    inputs = Inputs(InputStore(store._redis), pictures, store, room=room, mark=mark, **bounds)
    return Housekeeper(store, pictures, mark, inputs, closing=asyncio.Event())


def pictures_in(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*.png")]


async def test_an_expired_job_goes_with_its_pictures(
    client: httpx2.Client,
    worker: ScriptedWorker,
    redis_client: redis.Redis,
    housekeeper: Housekeeper,
    picture_folder: Path,
) -> None:
    old, kept = send(client), send(client)
    for _ in range(2):
        worker.succeed(worker.claim())
    assert len(pictures_in(picture_folder)) == 2
    redis_client.zadd(keys.EXPIRY, {old["id"]: 1})
    redis_client.delete(keys.REAPER_LOCK)
    await housekeeper.round()
    until(lambda: client.get(old["urls"]["self"]).status_code == 404)
    assert client.get(kept["urls"]["self"]).status_code == 200
    [picture] = pictures_in(picture_folder)
    assert kept["id"] in picture


async def test_the_probe_of_a_killed_process_goes_half_a_day_later(
    redis_client: redis.Redis, housekeeper: Housekeeper, picture_folder: Path
) -> None:
    """Looked for in the first round and not in the next one: an hour has to pass."""
    hour = int(time.time() // 3_600)
    # Of the next hour as well, which may begin meanwhile.
    left = [picture_folder / PROBES / f"{(each + 12) % 24:02}" / "left" for each in (hour, hour + 1)]
    remained = []
    for _ in range(2):
        for folder in left:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "probe").write_bytes(b"left")
        redis_client.delete(keys.REAPER_LOCK)
        await housekeeper.round()
        remained.append(all(folder.exists() for folder in left))
    assert remained == [False, True]


async def test_a_lost_workers_job_is_queued_again(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis, housekeeper: Housekeeper
) -> None:
    job = send(client)
    worker.claim()
    redis_client.zadd(keys.LEASES, {job["id"]: 1})
    redis_client.delete(keys.REAPER_LOCK)
    await housekeeper.round()
    until(lambda: client.get(job["urls"]["self"]).json()["status"] == "queued")
    assert client.get(job["urls"]["self"]).json()["attempts"] == 1


async def test_all_jobs_of_a_site_that_is_lost_are_queued_again_in_one_round(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis, housekeeper: Housekeeper
) -> None:
    """More than a script judges at once, and among them one that was called off."""
    jobs = [send(client) for _ in range(BATCH + 5)]
    claims = [worker.claim() for _ in jobs]
    assert client.post(f"/v1/jobs/{claims[0].id}/cancel").status_code == 200
    redis_client.zadd(keys.LEASES, {job["id"]: 1 for job in jobs})
    redis_client.delete(keys.REAPER_LOCK)
    await housekeeper.round()
    assert redis_client.zcard(keys.LEASES) == 0
    assert redis_client.zcard(keys.QUEUED + worker.card.name) == BATCH + 4


async def test_leases_that_are_nobodys_hold_up_none(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis, housekeeper: Housekeeper
) -> None:
    """As many as a script judges at once are of jobs that are not there, and ran out before."""
    job = send(client)
    worker.claim()
    redis_client.zadd(keys.LEASES, {f"job_{n:024x}": 1 for n in range(BATCH)} | {job["id"]: 2})
    redis_client.delete(keys.REAPER_LOCK)
    await housekeeper.round()
    assert redis_client.zcard(keys.LEASES) == 0
    assert client.get(job["urls"]["self"]).json()["status"] == "queued"


async def test_one_gateway_reaps_at_a_time(housekeeper: Housekeeper, redis_client: redis.Redis) -> None:
    redis_client.set(keys.REAPER_LOCK, "another", px=60_000)
    redis_client.zadd(keys.EXPIRY, {"job_" + "0" * 24: 1})
    await housekeeper.round()
    assert redis_client.zcard(keys.EXPIRY) == 1


async def test_pictures_that_cannot_go_keep_their_record(
    store: JobStore, redis_client: redis.Redis, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    housekeeper = housekeeper_of(store, folder.as_uri())
    folder.rmdir()
    folder.write_bytes(b"a file where the folder was")
    redis_client.delete(keys.REAPER_LOCK)
    redis_client.zadd(keys.EXPIRY, {"job_" + "0" * 24: 1})
    with structlog.testing.capture_logs() as logs:
        await housekeeper.round()
        redis_client.delete(keys.REAPER_LOCK)
        await housekeeper.round()
    assert redis_client.zcard(keys.EXPIRY) == 1
    assert [line["event"] for line in logs if line.get("what") == "storage"] == ["housekeeping waits"]


async def test_an_outage_is_survived_and_logged_once(monkeypatch: pytest.MonkeyPatch, housekeeper: Housekeeper) -> None:
    answers: list[Exception | None] = [redis.ConnectionError("away"), redis.TimeoutError("away"), None]

    async def round_() -> None:
        answer = answers.pop(0)
        if not answers:
            housekeeper._closing.set()
        if answer:
            raise answer

    monkeypatch.setattr(housekeeper, "round", round_)
    monkeypatch.setattr(keys, "REAP_SECONDS", 0.001)
    with structlog.testing.capture_logs() as logs:
        await asyncio.wait_for(housekeeper.run(), WAIT_SECONDS)
    assert [line["event"] for line in logs if "housekeeping" in line["event"]] == [
        "housekeeping waits",
        "housekeeping goes on",
    ]


async def test_a_thumbnail_goes_when_no_model_has_its_adapter(
    store: JobStore, settings: Settings, redis_client: redis.Redis, card: ModelCard, tmp_path: Path
) -> None:
    """A card that is away still names its own."""
    folder = tmp_path / "thumbnails"
    folder.mkdir()
    named, former = ("1" * 64, "2" * 64)
    for sha256 in (named, former):
        (folder / f"{sha256}.jpg").write_bytes(b"a small picture")
        os.utime(folder / f"{sha256}.jpg", (0, 0))
    ink = Adapter(name="ink", thumbnail=named)
    Ownership(redis_client).announce(card.model_copy(update={"loras": (ink,)}), "w1")
    Ownership(redis_client).leave(card.name, "w1")
    await housekeeper_of(store, tmp_path.as_uri()).round()
    assert [each.name for each in folder.iterdir()] == [f"{named}.jpg"]


async def test_snapshots_that_nobody_will_go_on_from_are_removed(
    redis_client: redis.Redis, housekeeper: Housekeeper, picture_folder: Path
) -> None:
    """Those of other attempts stay."""
    job_id, now_ms = "job_" + "0" * 24, time.time() * 1000
    files = {}
    for token, due in (("a" * 32, now_ms - 1_000), ("b" * 32, now_ms + 3_600_000)):
        file = files[token] = picture_folder / snapshot_key(job_id, token, 0)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"numbers")
        redis_client.zadd(keys.SNAPSHOT_OBJECTS, {f"{job_id}/{token}": due})
    await housekeeper.round()
    assert [file.exists() for file in files.values()] == [False, True]
    assert redis_client.zrange(keys.SNAPSHOT_OBJECTS, 0, -1) == [f"{job_id}/{'b' * 32}"]
    # The folder is that of other tests, too.
    files["b" * 32].unlink()


async def test_a_snapshot_that_cannot_go_keeps_nothing_else(
    monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis, housekeeper: Housekeeper
) -> None:
    async def refused(*_: str) -> None:
        raise PictureStoreError("no right to snapshots/")

    monkeypatch.setattr(housekeeper._pictures, "delete_snapshots", refused)
    redis_client.zadd(keys.SNAPSHOT_OBJECTS, {f"job_{'0' * 24}/{'a' * 32}": 1})
    redis_client.zadd(keys.EXPIRY, {"job_" + "1" * 24: 1})
    await housekeeper.round()
    assert redis_client.zcard(keys.EXPIRY) == 0
    assert redis_client.zcard(keys.SNAPSHOT_OBJECTS) == 1
