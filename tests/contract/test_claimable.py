"""Word that a job can be claimed: said whenever one comes into the queue, and gone when nothing waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.contract.messages.job import JobError
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio

WORD = keys.CLAIMABLE + "starter"


@pytest.fixture
async def claim(store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]) -> Claim:
    """The only job, in a worker's hands."""
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    claimed = ownership.claim("starter", "w1")
    assert claimed is not None
    return claimed


def hears(ownership: Ownership) -> bool:
    return ownership.hear("starter", seconds=0.01)


async def test_an_accepted_job_is_told_of_once(
    store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]
) -> None:
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    assert [hears(ownership) for _ in range(2)] == [True, False]


async def test_nothing_is_told_of_an_empty_queue(
    claim: Claim, store: JobStore, ownership: Ownership, redis_client: redis.Redis, new_job: Callable[..., NewJob]
) -> None:
    assert not redis_client.exists(WORD)
    job = new_job()
    await store.submit(job, queue_limit=10, tenant_limit=10)
    assert await store.cancel(job.id, "ann") == "canceled"
    assert not redis_client.exists(WORD)


async def test_what_a_claim_leaves_is_told_of(
    store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]
) -> None:
    for _ in range(2):
        await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    assert hears(ownership)
    assert ownership.claim("starter", "w1")
    assert hears(ownership)
    assert ownership.claim("starter", "w2")
    assert not hears(ownership)


async def test_a_job_that_comes_back_is_told_of(
    claim: Claim, store: JobStore, ownership: Ownership, lease_runs_out: Callable[[str], None]
) -> None:
    ownership.give_back(claim, "worker-stopped")
    assert hears(ownership)
    assert ownership.claim("starter", "w1")
    lease_runs_out(claim.id)
    assert await store.reap() == (1, 0, 0)
    assert hears(ownership)
    assert ownership.claim("starter", "w1")
    assert ownership.worker_lost("w1") == (1, 0)
    assert hears(ownership)


async def test_a_job_that_is_asked_for_again_is_told_of(claim: Claim, store: JobStore, ownership: Ownership) -> None:
    assert ownership.fail(claim, JobError(slug="numerical-error", detail="NaN"))
    assert (await store.retry(claim.id, "ann", queue_limit=10, tenant_limit=10)).outcome == "created"
    assert hears(ownership)


def test_what_is_passed_on_is_heard_by_another(ownership: Ownership, redis_client: redis.Redis) -> None:
    ownership.pass_on("starter")
    assert [hears(ownership) for _ in range(2)] == [True, False]
