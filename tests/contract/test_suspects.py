"""A job that crashes workers runs alone, so that it takes nobody with it; and a dead one can be run again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.contract.messages.events import Status
from app.contract.messages.params import Webhook
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob, QueueLost

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
LIMITS = {"queue_limit": 100, "tenant_limit": 100}


class House:
    """One model, some workers that die on command."""

    def __init__(self, store: JobStore, ownership: Ownership, client: redis.Redis) -> None:
        self.store, self.ownership, self.client = store, ownership, client

    def claim(self, worker: str, *, holding: int = 0) -> Claim | None:
        return self.ownership.claim("starter", worker, holding=holding)

    async def crash(self, *job_ids: str) -> None:
        self.client.zadd(keys.LEASES, dict.fromkeys(job_ids, 1), xx=True)
        await self.store.reap()


@pytest.fixture
def house(store: JobStore, ownership: Ownership, redis_client: redis.Redis) -> House:
    return House(store, ownership, redis_client)


@pytest.fixture
async def suspect(house: House, new_job: NewJobs) -> str:
    """Queued, after it crashed two workers."""
    job = new_job()
    await house.store.submit(job, **LIMITS)
    for _ in range(keys.SUSPECT_AFTER):
        assert house.claim("w1")
        await house.crash(job.id)
    return job.id


async def test_a_suspect_goes_to_a_worker_that_holds_nothing(house: House, suspect: str, new_job: NewJobs) -> None:
    innocent = new_job()
    await house.store.submit(innocent, **LIMITS)
    assert house.claim("busy", holding=3) is None, "it keeps the suspect and gets nothing more"
    found = house.claim("free")
    assert found is not None
    assert (found.id, found.failures, found.runs_alone) == (suspect, 2, True)
    after = house.claim("busy", holding=3)
    assert after is not None
    assert after.id == innocent.id, "and goes on when a free one took it"


async def test_one_busy_worker_empties_itself_for_it_and_the_others_go_on(
    house: House, suspect: str, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    jobs = [new_job() for _ in range(2)]
    for job in jobs:
        await house.store.submit(job, **LIMITS)
    assert house.claim("w1", holding=2) is None
    other = house.claim("w2", holding=2)
    assert other is not None
    assert other.id == jobs[0].id
    assert house.claim("w1", holding=1) is None
    found = house.claim("w1", holding=0)
    assert found is not None
    assert found.id == suspect
    assert not redis_client.hexists(keys.JOB + suspect, "kept_by")


async def test_a_worker_that_died_with_a_suspect_kept_for_it_blocks_nobody(
    house: House, suspect: str, redis_client: redis.Redis
) -> None:
    assert house.claim("w1", holding=2) is None
    redis_client.hset(keys.JOB + suspect, "kept_until", 1)
    assert house.claim("w2", holding=1) is None
    assert redis_client.hget(keys.JOB + suspect, "kept_by") == "w2"


async def test_innocents_finish_beside_a_poison(house: House, new_job: NewJobs) -> None:
    """Worker after worker takes what it gets, and dies if the poison is among it."""
    poison, *innocents = jobs = [new_job() for _ in range(5)]
    for job in jobs:
        await house.store.submit(job, **LIMITS)
    crashes = 0
    for life in range(20):
        held: list[Claim] = []
        while not any(each.runs_alone for each in held) and (claim := house.claim(f"w{life}", holding=len(held))):
            held.append(claim)
        if any(claim.id == poison.id for claim in held):
            crashes += 1
            await house.crash(*(claim.id for claim in held))
        for claim in held:
            house.ownership.succeed(claim, [], timings={}, warnings=[], steps=1)
    assert crashes == keys.MAX_ATTEMPTS
    ends = {job.id: await house.store.get(job.id, "ann") for job in jobs}
    assert [(r and r.status) for r in ends.values()] == [Status.FAILED] + [Status.SUCCEEDED] * len(innocents)


@pytest.fixture
async def dead(house: House, suspect: str) -> str:
    """Used up all its attempts."""
    assert house.claim("w1")
    await house.crash(suspect)
    return suspect


async def test_dead_jobs_are_listed_with_their_last_error(house: House, dead: str) -> None:
    [record] = await house.store.dead()
    assert (record.id, record.status) == (dead, Status.FAILED)
    assert record.error is not None
    assert record.error.slug == "attempts-exhausted"
    await house.store.forget(dead)
    assert await house.store.dead() == []


async def test_a_retry_is_a_new_job_once(house: House, dead: str, redis_client: redis.Redis) -> None:
    first = await house.store.retry(dead, "ann", **LIMITS)
    assert first.outcome == "created"
    again = await house.store.retry(dead, None, **LIMITS)
    assert (again.outcome, again.id) == ("replayed", first.id)
    assert await house.store.dead() == []
    new, old = await house.store.get(first.id, "ann"), await house.store.get(dead, "ann")
    assert new is not None
    assert old is not None
    assert (new.spec, new.metadata, new.status, new.attempt) == (old.spec, old.metadata, Status.QUEUED, 0)
    assert old.status is Status.FAILED, "an end is an end"
    claim = house.claim("w1")
    assert claim is not None
    assert (claim.id, claim.failures) == (first.id, 0)
    assert redis_client.hget(keys.RQ_JOB + first.id, "status") == "started"


async def test_a_retry_of_what_is_not_there_or_not_failed(house: House, dead: str, new_job: NewJobs) -> None:
    job = new_job()
    await house.store.submit(job, **LIMITS)
    outcomes = [
        (await house.store.retry(job_id, tenant, **LIMITS)).outcome
        for job_id, tenant in ((job.id, "ann"), (dead, "bob"), ("job_" + "0" * 24, None))
    ]
    assert outcomes == ["not-failed", "missing", "missing"]
    assert (await house.store.retry(dead, "ann", queue_limit=1, tenant_limit=9)).outcome == "queue-full"
    assert (await house.store.retry(dead, "ann", queue_limit=9, tenant_limit=1)).outcome == "tenant-full"


async def test_a_retry_keeps_its_webhook(house: House, new_job: NewJobs, redis_client: redis.Redis) -> None:
    job = new_job(webhook=Webhook(url="https://example.org/hook", events=["job.queued"]))
    await house.store.submit(job, **LIMITS)
    for _ in range(keys.MAX_ATTEMPTS):
        assert house.claim("w1")
        await house.crash(job.id)
    new = await house.store.retry(job.id, "ann", **LIMITS)
    assert f"{new.id}/job.queued/0" in redis_client.zrange(keys.OUTBOX, 0, -1)


async def test_attempts_without_a_result_are_litter(house: House, new_job: NewJobs, redis_client: redis.Redis) -> None:
    job = new_job()
    await house.store.submit(job, **LIMITS)
    crashed = house.claim("w1")
    await house.crash(job.id)
    given_back = house.claim("w1")
    assert crashed
    assert given_back
    assert house.ownership.give_back(given_back, "worker-stopped")
    winner = house.claim("w1")
    assert winner
    house.ownership.succeed(winner, [], timings={}, warnings=[], steps=1)
    dead = sorted(f"{job.id}/{each.token}" for each in (crashed, given_back))
    assert sorted(redis_client.zrange(keys.LITTER, 0, -1)) == dead
    assert await house.store.litter() == []
    redis_client.zadd(keys.LITTER, dict.fromkeys(dead, 1))
    assert sorted(await house.store.litter()) == dead
    await house.store.tidied(dead[0])
    assert await house.store.litter() == dead[1:]


async def test_redis_came_back_empty(house: House, new_job: NewJobs, redis_client: redis.Redis) -> None:
    job = new_job()
    await house.store.submit(job, **LIMITS)
    kept = redis_client.get(keys.EPOCH)
    redis_client.flushall()
    with pytest.raises(QueueLost, match="restart the gateways"):
        await house.store.get(job.id, "ann")
    for call in (
        house.store.submit(new_job(), **LIMITS),
        house.store.list_jobs("ann", limit=3),
        house.store.retry(job.id, "ann", **LIMITS),
        house.store.require_epoch(),
    ):
        with pytest.raises(QueueLost):
            await call
    redis_client.set(keys.EPOCH, kept)
    assert (await house.store.submit(new_job(), **LIMITS)).outcome == "created", "the files were restored"


async def test_another_redis_is_not_taken_for_ours(house: House, new_job: NewJobs, redis_client: redis.Redis) -> None:
    await house.store.submit(new_job(), **LIMITS)
    redis_client.set(keys.EPOCH, "another")
    with pytest.raises(QueueLost):
        await house.store.submit(new_job(), **LIMITS)
    house.store.begin_anew()
    assert (await house.store.submit(new_job(), **LIMITS)).outcome == "created"
