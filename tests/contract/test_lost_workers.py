"""A worker that has gone for certain: its jobs go back at once, and its deaths count as the reaper counts them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
import redis.asyncio

from app.contract.messages.events import Status
from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
LIMITS = {"queue_limit": 100, "tenant_limit": 100}


@pytest.fixture
async def jobs(store: JobStore, new_job: NewJobs) -> list[str]:
    made = [new_job() for _ in range(3)]
    for job in made:
        await store.submit(job, **LIMITS)
    return [job.id for job in made]


async def test_its_jobs_go_back_and_nobody_elses(store: JobStore, ownership: Ownership, jobs: list[str]) -> None:
    dead, living, also_dead = (ownership.claim("starter", worker) for worker in ("w1", "w11", "w1"))
    assert dead
    assert living
    assert also_dead
    assert ownership.worker_lost("w1") == (2, 0)
    assert [ownership.beat([claim])[0] for claim in (dead, living, also_dead)] == ["lost", "kept", "lost"]
    again = [ownership.claim("starter", "w2") for _ in range(3)]
    assert {claim.id for claim in again if claim} == {dead.id, also_dead.id}
    assert {(claim.attempt, claim.failures) for claim in again if claim} == {(2, 1)}


async def test_said_twice_it_is_one_death(ownership: Ownership, jobs: list[str]) -> None:
    ownership.claim("starter", "w1")
    assert ownership.worker_lost("w1") == (1, 0)
    assert ownership.worker_lost("w1") == (0, 0)
    claim = ownership.claim("starter", "w2")
    assert claim is not None
    assert ownership.worker_lost("w1") == (0, 0), "the job is another's now"
    assert claim.failures == 1


async def test_a_job_that_takes_three_workers_with_it_fails_and_says_what_is_known(
    store: JobStore, ownership: Ownership, redis_client: redis.Redis, jobs: list[str]
) -> None:
    because = 'its "decode" took longer than 60 s.'
    for _ in range(keys.MAX_ATTEMPTS - 1):
        assert ownership.claim("starter", "w1")
        assert ownership.worker_lost("w1", because) == (1, 0)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert claim.runs_alone
    assert ownership.worker_lost("w1", because) == (0, 1)
    record = await store.get(claim.id, "ann")
    assert record is not None
    assert record.error is not None
    assert (record.status, record.error.slug) == (Status.FAILED, "attempts-exhausted")
    assert record.error.detail.endswith("lost each time. The last time: " + because)
    assert redis_client.zrange(keys.DEAD, 0, -1) == [claim.id]


async def test_deaths_that_the_reaper_saw_and_those_that_were_seen_add_up(
    store: JobStore, ownership: Ownership, lease_runs_out: Callable[[str], None], jobs: list[str]
) -> None:
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert ownership.worker_lost("w1") == (1, 0)
    for _ in range(2):
        claim = ownership.claim("starter", "w2")
        assert claim is not None
        lease_runs_out(claim.id)
        await store.reap()
    record = await store.get(claim.id, "ann")
    assert record is not None
    assert record.status is Status.FAILED


async def test_a_cancel_that_it_did_not_hear_of_is_done(store: JobStore, ownership: Ownership, jobs: list[str]) -> None:
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert await store.cancel(claim.id, "ann") == "requested"
    assert ownership.worker_lost("w1") == (0, 0)
    record = await store.get(claim.id, "ann")
    assert record is not None
    assert record.status is Status.CANCELED


async def test_a_suspect_that_was_kept_for_it_is_anybodys(ownership: Ownership, jobs: list[str]) -> None:
    for _ in range(keys.SUSPECT_AFTER):
        assert ownership.claim("starter", "w0")
        ownership.worker_lost("w0")
    assert ownership.claim("starter", "w1", holding=1) is None, "it keeps the suspect for when it holds nothing else"
    passes_by = ownership.claim("starter", "w2", holding=1)
    assert passes_by is not None
    assert passes_by.failures == 0
    ownership.worker_lost("w1")
    assert ownership.claim("starter", "w2", holding=1) is None, "now it waits for this one"


async def test_what_a_worker_is_at_before_it_is_ready(
    store: JobStore, ownership: Ownership, redis_client: redis.Redis
) -> None:
    assert await store.models.starting() == []
    ownership.starting("w1", "loading the model")
    ownership.starting("w2", "warming up, 2 rows measured")
    ownership.starting("w1", "warming up")
    assert await store.models.starting() == ["warming up", "warming up, 2 rows measured"]
    redis_client.hset(keys.STARTING, "w1", "1 warming up")
    assert await store.models.starting() == ["warming up, 2 rows measured"], "it has fallen silent"
    ownership.starting("w3", "loading the model")
    assert set(redis_client.hkeys(keys.STARTING)) == {"w2", "w3"}
    assert 0 < redis_client.pttl(keys.STARTING) <= keys.ALIVE_MS
    ownership.starting("w2", "")
    ownership.worker_lost("w3")
    assert await store.models.starting() == []


@pytest.mark.parametrize(("forbidden", "cancel", "ends"), [("hdel", False, "queued"), ("expireat", True, "canceled")])
async def test_a_reaper_that_breaks_half_way_leaves_the_lease(
    store: JobStore, ownership: Ownership, jobs: list[str], redis_client: redis.Redis, forbidden: str, cancel: bool,
    ends: str,
) -> None:  # fmt: skip
    """For example one whose user of Redis is of an earlier version. A job without a lease would be nobody's."""
    claim = ownership.claim("starter", "w1")
    assert claim
    if cancel:
        await store.cancel(claim.id, "ann")
    redis_client.zadd(keys.LEASES, {claim.id: 1})
    redis_client.execute_command("ACL", "SETUSER", "narrow", "on", "nopass", "~*", "&*", "+@all", f"-{forbidden}")
    where = redis_client.get_connection_kwargs()
    try:
        async with redis.asyncio.Redis(
            host=where["host"], port=where["port"], username="narrow", password="x", decode_responses=True
        ) as narrow:
            with pytest.raises(redis.ResponseError, match=r"(?i)permission"):
                await JobStore(narrow).reap()
    finally:
        redis_client.execute_command("ACL", "DELUSER", "narrow")
    assert redis_client.zscore(keys.LEASES, claim.id) == 1
    await store.reap()
    assert redis_client.hget(keys.JOB + claim.id, "status") == ends
    assert redis_client.zscore(keys.LEASES, claim.id) is None
