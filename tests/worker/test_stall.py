"""A step that never ends is noticed from outside of it: the process goes, and its job runs elsewhere."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from app.contract.common.exits import LOST_DEVICE
from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys
from app.contract.redis.store import JobStore, NewJob
from tests.waiting import WAIT_SECONDS


@pytest.fixture
def hanging_worker(valkey_url: str, redis_client: redis.Redis, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS", "DARKROOM"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.worker.hanging_worker"],
        env=environment
        | {
            "REDIS_URL": valkey_url,
            "DARKROOM_STORAGE_URL": (tmp_path / "pictures").as_uri(),
            "DARKROOM_PROFILE_FOLDER": str(tmp_path / "profiles"),
            "DARKROOM_STALL_SECONDS": "1",
            "DARKROOM_THREADS": "1",
            "DARKROOM_SCORER": "off",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[JobStore]:
    client = redis.asyncio.Redis.from_url(valkey_url, decode_responses=True)
    yield JobStore(client)
    await client.aclose()


async def card_of(worker: subprocess.Popen[str], store: JobStore) -> ModelCard:
    """As soon as it is announced."""
    ends = time.monotonic() + WAIT_SECONDS
    while not (served := await store.models.all()):
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < ends, "the worker never came up"
        await asyncio.sleep(0.05)
    [model] = served.values()
    return model.card


@pytest.mark.anyio
async def test_a_step_that_never_ends_ends_the_process_and_not_the_job(
    hanging_worker: subprocess.Popen[str], store: JobStore, redis_client: redis.Redis
) -> None:
    spec = resolve(JobRequest(prompt="a red circle"), await card_of(hanging_worker, store))
    job = NewJob(new_job_id(), "ann", spec, retention_ms=600_000, metadata={}, webhook=None)
    await store.submit(job, queue_limit=10, tenant_limit=10)
    output, _ = await asyncio.to_thread(hanging_worker.communicate, timeout=WAIT_SECONDS)
    assert hanging_worker.returncode == LOST_DEVICE, output
    assert "no step has ended for too long" in output
    record = await store.get(job.id, "ann")
    assert record is not None
    assert record.status is Status.QUEUED, "it does not wait for its lease, and does not run"
    assert redis_client.zcard(keys.LEASES) == 0
    assert redis_client.hget(keys.JOB + job.id, "failures") == "1"
