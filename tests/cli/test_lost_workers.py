"""What `darkroom up` remembers of its workers, and when it hands their jobs back: never while one may live."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from app.cli import lost_workers
from app.cli.lost_workers import LostWorkers
from app.cli.up import Supervisor
from app.contract.common.environment import WORKER_NAME
from app.contract.messages.card import ModelCard
from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from tests.waiting import until

HELD = "job_0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_workers, "AGAIN_SECONDS", 0.01)


@pytest.fixture
def workers(tmp_path: Path, valkey_url: str, redis_client: redis.Redis) -> LostWorkers:
    workers = LostWorkers(tmp_path)
    workers.open(url(valkey_url))
    return workers


def url(valkey_url: str) -> str:
    return valkey_url.replace("valkey+unix://", "unix://")


def holds(client: redis.Redis, name: str, job: str = HELD) -> None:
    """A record as a claim leaves it, so far as a death is judged by it."""
    client.hset(keys.JOB + job, mapping={"status": "running", "worker": name, "model": "m", "token": "t", "attempt": 1})
    client.zadd(keys.LEASES, {job: 10**14})


def status(client: redis.Redis) -> str | None:
    found = client.hget(keys.JOB + HELD, "status")
    return found if isinstance(found, str) else None


def written(folder: Path) -> list[str]:
    return (folder / "workers").read_text().split()


def test_each_start_has_a_name_that_is_written_before_it(workers: LostWorkers, tmp_path: Path) -> None:
    first, second = (workers.name_one("worker")[WORKER_NAME] for _ in range(2))
    assert first != second
    assert written(tmp_path) == [first, second]
    assert (tmp_path / "workers").stat().st_mode & 0o777 == 0o600


def test_who_died_loses_its_jobs_and_then_its_name(
    workers: LostWorkers, tmp_path: Path, redis_client: redis.Redis
) -> None:
    holds(redis_client, workers.name_one("worker")[WORKER_NAME])
    assert status(redis_client) == "running"
    workers.died("worker")
    until(lambda: status(redis_client) == "queued")
    until(lambda: written(tmp_path) == [])


def test_who_died_serves_no_model_any_more(workers: LostWorkers, redis_client: redis.Redis, card: ModelCard) -> None:
    name = workers.name_one("worker")[WORKER_NAME]
    Ownership(redis_client).announce(card, name)
    Ownership(redis_client).announce(card, "another")
    workers.died("worker")
    until(lambda: redis_client.zrange(keys.ALIVE + card.name, 0, -1) == ["another"])


def test_a_process_that_begins_is_said_to(workers: LostWorkers, redis_client: redis.Redis) -> None:
    """Importing torch takes seconds, in which it cannot speak for itself."""
    name = workers.name_one("worker")[WORKER_NAME]
    until(lambda: (redis_client.hget(keys.STARTING, name) or "").endswith("its process begins"))


def test_another_child_that_lives_is_not_meant(workers: LostWorkers, tmp_path: Path, redis_client: redis.Redis) -> None:
    """A worker of another model, under the same supervisor."""
    name = workers.name_one("worker-other")[WORKER_NAME]
    died = workers.name_one("worker")[WORKER_NAME]
    workers.died("worker")
    until(lambda: died not in written(tmp_path))
    assert name in written(tmp_path)


def test_who_was_started_since_is_not_meant(workers: LostWorkers, tmp_path: Path, redis_client: redis.Redis) -> None:
    workers.name_one("worker")
    workers.died("worker")
    living = workers.name_one("worker")[WORKER_NAME]
    holds(redis_client, living)
    until(lambda: written(tmp_path) == [living])
    assert status(redis_client) == "running"


def test_a_next_start_knows_the_names_that_are_left(
    workers: LostWorkers, tmp_path: Path, valkey_url: str, redis_client: redis.Redis
) -> None:
    holds(redis_client, workers.name_one("worker")[WORKER_NAME])
    LostWorkers(tmp_path).open(url(valkey_url))
    until(lambda: status(redis_client) == "queued")
    until(lambda: written(tmp_path) == [])


def test_one_who_never_got_the_folder_judges_nobody(
    workers: LostWorkers, tmp_path: Path, redis_client: redis.Redis
) -> None:
    """A second start in a folder that is in use ends with `close` as well."""
    holds(redis_client, workers.name_one("worker")[WORKER_NAME])
    LostWorkers(tmp_path).close()
    assert status(redis_client) == "running"
    assert len(written(tmp_path)) == 1
    workers.close()
    assert (status(redis_client), written(tmp_path)) == ("queued", [])


@pytest.fixture
def hanging(valkey_url: str) -> Iterator[int]:
    """The pid of the Valkey, which answers nobody for a while."""
    with redis.Redis.from_url(url(valkey_url)) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGCONT)


def test_redis_away_is_waited_for(
    workers: LostWorkers, tmp_path: Path, redis_client: redis.Redis, hanging: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_workers, "REDIS_SECONDS", 0.2)
    name = workers.name_one("worker")[WORKER_NAME]
    workers.died("worker")
    workers.close()
    assert written(tmp_path) == [name], "it is the next start's, if this one ends before Redis is back"
    os.kill(hanging, signal.SIGCONT)
    until(lambda: written(tmp_path) == [])


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start_a_worker(
    valkey_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = LostWorkers(tmp_path / "no such folder")
    workers.open(url(valkey_url))
    assert workers.name_one("worker")[WORKER_NAME]
    assert "cannot be written" in capsys.readouterr().err


def test_a_long_start_says_what_the_worker_is_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detail = "no worker is ready yet; starting: warming up, 2 rows measured"
    checks = {"redis": {"ok": True, "detail": "reachable"}, "workers": {"ok": False, "detail": detail}}
    supervisor = Supervisor(data=tmp_path)
    supervisor.url = "http://127.0.0.1:1"
    supervisor.client = httpx2.Client(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(503, json={"checks": checks}))
    )
    supervisor.look_whether_ready(supervisor.complain_at - 1)
    assert capsys.readouterr().err == ""
    supervisor.look_whether_ready(supervisor.complain_at + 1)
    assert capsys.readouterr().err == f"darkroom: not ready yet: workers: {detail}\n"


@pytest.mark.parametrize("storage", ["writable", "writable, but no new job is taken: DARKROOM_STORAGE_RESERVE_BYTES"])
def test_what_is_ready_and_takes_no_job_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    supervisor = Supervisor(data=tmp_path)
    supervisor.url = "http://127.0.0.1:1"
    answer = {"checks": {"storage": {"ok": True, "detail": storage}}}
    supervisor.client = httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json=answer)))
    supervisor.look_whether_ready(0.0)
    assert supervisor.ready
    assert capsys.readouterr().err == ("" if storage == "writable" else f"darkroom: storage: {storage}\n")
