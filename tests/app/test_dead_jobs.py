"""`darkroom jobs`: the dead listed and run again, from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import redis

from app.contract.redis import keys
from app.jobs.housekeeping import Housekeeper
from tests.app.command import darkroom
from tests.app.conftest import ScriptedWorker
from tests.app.test_housekeeping import housekeeper, store
from tests.app.test_jobs import send
from tests.waiting import WAIT_SECONDS

__all__ = ["housekeeper", "store"]

COMMAND = Path(sys.executable).with_name("darkroom")


def jobs(redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {n: value for n, value in os.environ.items() if n != "COLUMNS" and not n.startswith("DARKROOM")}
    return subprocess.run(
        [COMMAND, "jobs", *arguments],
        env=environment | {"REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


@pytest.fixture
def url(valkey_url: str) -> str:
    return valkey_url.replace("valkey+unix://", "unix://")


@pytest.mark.anyio
async def test_a_dead_job_is_listed_and_run_again(
    client: httpx2.Client, worker: ScriptedWorker, redis_client: redis.Redis, url: str, housekeeper: Housekeeper
) -> None:
    job = send(client)
    redis_client.hset(keys.JOB + job["id"], "failures", keys.MAX_ATTEMPTS - 1)
    worker.claim()
    redis_client.zadd(keys.LEASES, {job["id"]: 1})
    await housekeeper.round()
    assert client.get(job["urls"]["self"]).json()["status"] == "failed"
    listed = jobs(url, "dead")
    assert listed.returncode == 0
    assert job["id"] in listed.stdout
    [_, row] = listed.stdout.splitlines()
    assert "attempts-exhausted: " in row, "a row is a line, where there is no terminal to fold it for"
    assert job["input"]["prompt"] not in listed.stdout
    first, again = jobs(url, "retry", job["id"]), jobs(url, "retry", job["id"])
    assert (first.returncode, first.stdout) == (0, again.stdout)
    new = client.get(f"/v1/jobs/{first.stdout.strip()}").json()
    assert (new["status"], new["input"]) == ("queued", job["input"])
    empty = jobs(url, "dead")
    assert (empty.returncode, empty.stdout) == (0, "")


def test_what_cannot_be_run_again(client: httpx2.Client, url: str) -> None:
    job = send(client)
    for job_id, words in (
        (job["id"], "only a failed job"),
        ("job_" + "0" * 24, "no such job"),
        ("x", "not a job's id"),
    ):
        done = darkroom("jobs", "retry", job_id, redis_url=url)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_without_a_service(tmp_path: Path) -> None:
    done = jobs(f"unix://{tmp_path}/nothing.sock", "dead")
    assert done.returncode == 3
    assert "start the service" in done.stderr
    assert "Traceback" not in done.stderr
