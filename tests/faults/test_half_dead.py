"""Connections that swallow everything while new ones work: no living worker loses a job to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.contract.redis import keys
from tests.faults.conftest import Scene
from tests.faults.half_dead import HalfDeadProxy
from tests.waiting import until


@pytest.fixture
def proxy(scene: Scene) -> Iterator[HalfDeadProxy]:
    proxy = HalfDeadProxy(scene.valkey.port)
    yield proxy
    proxy.close()


def test_half_dead_connections_cost_no_lease(scene: Scene, proxy: HalfDeadProxy) -> None:
    """Again and again every connection dies that the worker has, RQ's and those of its claims too.

    Leases last longer than any test: whether they are kept is seen by when they end.
    """
    scene.service.bear("worker0", DARKROOM_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", DARKROOM_TEST_STEP="1")
    job = scene.send(num_inference_steps=1_000)
    scene.status(job, "running")
    for _ in range(2):
        assert proxy.swallow() >= 3, "commands, leases and RQ's"
        ends: set[Any] = set()
        until(lambda ends=ends: ends.add(scene.redis.zscore(keys.LEASES, job["id"])) or len(ends) > 3)  # type: ignore[misc]
    scene.client.post(f"/v1/jobs/{job['id']}/cancel")
    ended = scene.ended(job)
    assert (ended["status"], ended["attempts"]) == ("canceled", 1)
    assert "job.restarted" not in scene.events(job)


def test_after_half_dead_connections_it_claims_and_ends_jobs_as_before(scene: Scene, proxy: HalfDeadProxy) -> None:
    scene.service.bear("worker0", DARKROOM_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
    assert scene.ended(scene.send())["status"] == "succeeded"
    proxy.swallow()
    for job in [scene.send(seed=seed) for seed in range(3)]:
        ended = scene.ended(job)
        assert (ended["status"], ended["attempts"]) == ("succeeded", 1)
