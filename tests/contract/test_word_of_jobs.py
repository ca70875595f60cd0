"""An idle worker is told of a job, one worker for each: of every job that comes into the queue, by whatever way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.contract.messages.job import JobError
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient_words")]


@pytest.fixture
async def claim(store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]) -> Claim:
    """The only job, in the hands of w1; w2 is idle."""
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    claimed = ownership.claim("starter", "w1")
    assert claimed is not None
    finds_nothing(ownership, "w2")
    return claimed


def finds_nothing(ownership: Ownership, *workers: str, holding: int = 0) -> None:
    for worker in workers:
        assert ownership.claim("starter", worker, holding=holding) is None


def told(ownership: Ownership, *workers: str) -> list[str]:
    """Which of them have heard of a job since this was last asked."""
    return [worker for worker in workers if ownership.hear(worker, seconds=0.01) == "starter"]


async def test_each_job_is_told_to_one_idle_worker(
    store: JobStore, ownership: Ownership, redis_client: redis.Redis, new_job: Callable[..., NewJob]
) -> None:
    workers = [f"w{n}" for n in range(5)]
    finds_nothing(ownership, *workers)
    heard: list[str] = []
    for n in range(5):
        await store.submit(new_job(), queue_limit=10, tenant_limit=10)
        heard += told(ownership, *workers)
        assert len(heard) == n + 1
    assert sorted(heard) == workers
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    assert told(ownership, *workers) == []


async def test_word_waits_for_who_has_just_asked(
    store: JobStore, ownership: Ownership, redis_client: redis.Redis, new_job: Callable[..., NewJob]
) -> None:
    finds_nothing(ownership, "w1")
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    assert 0 < redis_client.pttl(keys.WORD + "w1") <= keys.WORD_MS, "it does not stay for ever"
    assert told(ownership, "w1") == ["w1"]


async def test_who_holds_nothing_is_told_first(
    store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]
) -> None:
    finds_nothing(ownership, "free")
    finds_nothing(ownership, "busy", holding=3)
    for worker in ("free", "busy"):
        await store.submit(new_job(), queue_limit=10, tenant_limit=10)
        assert told(ownership, "free", "busy") == [worker]


async def test_the_dead_are_told_nothing(
    store: JobStore, ownership: Ownership, redis_client: redis.Redis, new_job: Callable[..., NewJob]
) -> None:
    finds_nothing(ownership, "left", "died", "lives")
    ownership.leave("starter", "left")
    redis_client.zincrby(keys.IDLE + "starter", -keys.IDLE_KEPT_MS - 1_000, "died")
    for heard in (["lives"], []):
        await store.submit(new_job(), queue_limit=10, tenant_limit=10)
        assert told(ownership, "left", "died", "lives") == heard
    assert not redis_client.exists(keys.IDLE + "starter")


async def test_who_goes_on_asking_is_entered_again_now_and_then(
    ownership: Ownership, redis_client: redis.Redis
) -> None:
    finds_nothing(ownership, "w1")
    entered = redis_client.zscore(keys.IDLE + "starter", "w1")
    redis_client.zincrby(keys.IDLE + "starter", -1, "w1")
    finds_nothing(ownership, "w1")
    assert redis_client.zscore(keys.IDLE + "starter", "w1") == entered - 1
    redis_client.zincrby(keys.IDLE + "starter", -keys.IDLE_AGAIN_MS, "w1")
    finds_nothing(ownership, "w1")
    assert redis_client.zscore(keys.IDLE + "starter", "w1") >= entered


async def test_a_job_that_comes_back_is_told_of(
    claim: Claim, store: JobStore, ownership: Ownership, lease_runs_out: Callable[[str], None]
) -> None:
    ownership.give_back(claim, "worker-stopped")
    assert told(ownership, "w2") == ["w2"]
    assert ownership.claim("starter", "w1")
    finds_nothing(ownership, "w2")
    lease_runs_out(claim.id)
    assert await store.reap() == (1, 0, 0, 1)
    assert told(ownership, "w2") == ["w2"]
    assert ownership.claim("starter", "w1")
    finds_nothing(ownership, "w2")
    assert ownership.worker_lost("w1") == (1, 0)
    assert told(ownership, "w2") == ["w2"]


async def test_a_job_that_is_asked_for_again_is_told_of(claim: Claim, store: JobStore, ownership: Ownership) -> None:
    assert ownership.fail(claim, JobError(slug="numerical-error", detail="NaN"))
    assert (await store.retry(claim.id, "ann", queue_limit=10, tenant_limit=10)).outcome == "created"
    assert told(ownership, "w2") == ["w2"]


async def test_what_is_passed_on_is_heard_by_another(
    store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]
) -> None:
    finds_nothing(ownership, "w1", "w2")
    ownership.pass_on("starter")
    assert told(ownership, "w1", "w2") == [], "nothing waits"
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    first = told(ownership, "w1", "w2")
    ownership.pass_on("starter")
    assert sorted(first + told(ownership, "w1", "w2")) == ["w1", "w2"]
