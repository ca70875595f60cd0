"""A job that crashes workers runs alone, so that it takes nobody with it; and a dead one can be run again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.contract.messages.audit import Operator
from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.job import BlockedPicture, JobError
from app.contract.messages.params import Webhook
from app.contract.redis import keys, rq_names
from app.contract.redis.operations import Operations
from app.contract.redis.overview import Overview
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob, QueueLost
from app.jobs.retries import Retries
from tests.forgetful import Losses

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
LIMITS = {"queue_limit": 100, "tenant_limit": 100}


class Installation:
    """One model, some workers that die on command."""

    def __init__(self, store: JobStore, ownership: Ownership, client: redis.Redis) -> None:
        self.store, self.ownership, self.client = store, ownership, client

    def claim(self, worker: str, *, holding: int = 0) -> Claim | None:
        return self.ownership.claim("starter", worker, holding=holding)

    async def crash(self, *job_ids: str) -> None:
        self.client.zadd(keys.LEASES, dict.fromkeys(job_ids, 1), xx=True)
        await self.store.reap()


@pytest.fixture
def installation(store: JobStore, ownership: Ownership, redis_client: redis.Redis) -> Installation:
    return Installation(store, ownership, redis_client)


@pytest.fixture
async def suspect(installation: Installation, new_job: NewJobs) -> str:
    """Queued, after it crashed two workers."""
    job = new_job()
    await installation.store.submit(job, **LIMITS)
    for _ in range(keys.SUSPECT_AFTER):
        assert installation.claim("w1")
        await installation.crash(job.id)
    return job.id


async def test_a_suspect_goes_to_a_worker_that_holds_nothing(
    installation: Installation, suspect: str, new_job: NewJobs
) -> None:
    innocent = new_job()
    await installation.store.submit(innocent, **LIMITS)
    assert installation.claim("busy", holding=3) is None, "it keeps the suspect and gets nothing more"
    found = installation.claim("free")
    assert found is not None
    assert (found.id, found.failures, found.runs_alone) == (suspect, 2, True)
    after = installation.claim("busy", holding=3)
    assert after is not None
    assert after.id == innocent.id, "and goes on when a free one took it"


async def test_one_busy_worker_empties_itself_for_it_and_the_others_go_on(
    installation: Installation, suspect: str, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    jobs = [new_job() for _ in range(2)]
    for job in jobs:
        await installation.store.submit(job, **LIMITS)
    assert installation.claim("w1", holding=2) is None
    other = installation.claim("w2", holding=2)
    assert other is not None
    assert other.id == jobs[0].id
    assert installation.claim("w1", holding=1) is None
    found = installation.claim("w1", holding=0)
    assert found is not None
    assert found.id == suspect
    assert not redis_client.hexists(keys.JOB + suspect, "kept_by")


async def test_a_worker_that_died_with_a_suspect_kept_for_it_blocks_nobody(
    installation: Installation, suspect: str, redis_client: redis.Redis
) -> None:
    assert installation.claim("w1", holding=2) is None
    redis_client.hset(keys.JOB + suspect, "kept_until", 1)
    assert installation.claim("w2", holding=1) is None
    assert redis_client.hget(keys.JOB + suspect, "kept_by") == "w2"


async def test_a_full_worker_leaves_a_suspect_to_others_and_takes_interactive_jobs(
    installation: Installation, suspect: str, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    """It would have to end first what it draws, and what it has put aside for interactive jobs."""
    job = new_job()
    await installation.store.submit(job, **LIMITS)
    found = installation.ownership.claim("starter", "full", holding=4, interactive_only=True)
    assert found is not None
    assert found.id == job.id
    assert not redis_client.hexists(keys.JOB + suspect, "kept_by")


async def test_innocents_finish_beside_a_poison(installation: Installation, new_job: NewJobs) -> None:
    """Worker after worker takes what it gets, and dies if the poison is among it."""
    poison, *innocents = jobs = [new_job() for _ in range(5)]
    for job in jobs:
        await installation.store.submit(job, **LIMITS)
    crashes = 0
    for life in range(20):
        held: list[Claim] = []
        while not any(each.runs_alone for each in held) and (
            claim := installation.claim(f"w{life}", holding=len(held))
        ):
            held.append(claim)
        if any(claim.id == poison.id for claim in held):
            crashes += 1
            await installation.crash(*(claim.id for claim in held))
        for claim in held:
            installation.ownership.succeed(claim, [], timings={}, warnings=[], steps=1)
    assert crashes == keys.MAX_ATTEMPTS
    ends = {job.id: await installation.store.get(job.id, "ann") for job in jobs}
    assert [(r and r.status) for r in ends.values()] == [Status.FAILED] + [Status.SUCCEEDED] * len(innocents)


@pytest.fixture
async def dead(installation: Installation, suspect: str) -> str:
    """Used up all its attempts."""
    assert installation.claim("w1")
    await installation.crash(suspect)
    return suspect


async def test_dead_jobs_are_listed_with_their_last_error(
    installation: Installation, dead: str, overview: Overview
) -> None:
    [(record, _)] = await overview.dead(limit=10)
    assert (record.id, record.status) == (dead, Status.FAILED)
    assert record.error is not None
    assert record.error.slug == "attempts-exhausted"
    await installation.store.forget(dead)
    assert await overview.dead(limit=10) == []


async def test_an_operator_who_dies_with_a_retry_has_its_line_all_the_same(
    installation: Installation, dead: str, valkey_url: str, card: ModelCard
) -> None:
    installation.ownership.announce(card, "w1")
    losses = Losses(breaks=True)
    async with losses.async_client(valkey_url) as dies:
        operations = Operations(dies)
        retries = Retries(JobStore(dies), Overview(dies), operations, **LIMITS)
        losses.left = 1
        with pytest.raises(redis.ConnectionError):
            await retries.one(dead, Operator())
        again = await retries.one(dead, Operator())
        assert (again.refusal, again.is_new) == (None, False)
        [line] = await operations.audit(limit=9)
    assert (line.change.target, line.change.outcome) == (dead, f"runs again as {again.new_id}")


async def test_a_retry_is_a_new_job_once(
    installation: Installation, dead: str, overview: Overview, redis_client: redis.Redis
) -> None:
    first = await installation.store.retry(dead, "ann", **LIMITS)
    assert first.outcome == "created"
    again = await installation.store.retry(dead, None, **LIMITS)
    assert (again.outcome, again.id) == ("replayed", first.id)
    assert await overview.dead(limit=10) == []
    new, old = await installation.store.get(first.id, "ann"), await installation.store.get(dead, "ann")
    assert new is not None
    assert old is not None
    assert (new.spec, new.metadata, new.status, new.attempt) == (old.spec, old.metadata, Status.QUEUED, 0)
    assert old.status is Status.FAILED, "an end is an end"
    claim = installation.claim("w1")
    assert claim is not None
    assert (claim.id, claim.failures) == (first.id, 0)
    assert redis_client.hget(rq_names.RQ_JOB + first.id, "status") == "started"


async def test_flagged_pictures_are_not_drawn_again(
    installation: Installation, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    """The seed would draw the same ones. What was flagged stays in the record, with the failure or beside the rest."""
    flagged, partly = new_job(), new_job()
    for job in (flagged, partly):
        await installation.store.submit(job, **LIMITS)
    blocked = [BlockedPicture(index=2, seed=9)]
    claims = {claim.id: claim for claim in (installation.claim("w1"), installation.claim("w1")) if claim}
    error = JobError(slug="content-blocked", detail="flagged")
    assert installation.ownership.fail(claims[flagged.id], error, blocked=blocked)
    assert installation.ownership.succeed(claims[partly.id], [], timings={}, warnings=[], steps=4, blocked=blocked)
    for job in (flagged, partly):
        record = await installation.store.get(job.id, job.tenant)
        assert record is not None
        assert list(record.blocked) == blocked
    answer = await installation.store.retry(flagged.id, None, **LIMITS)
    assert (answer.outcome, answer.id) == ("content-blocked", flagged.id)
    assert redis_client.hget(keys.JOB + flagged.id, "retried_as") is None


async def test_a_retry_of_what_is_not_there_or_not_failed(
    installation: Installation, dead: str, new_job: NewJobs
) -> None:
    job = new_job()
    await installation.store.submit(job, **LIMITS)
    outcomes = [
        (await installation.store.retry(job_id, tenant, **LIMITS)).outcome
        for job_id, tenant in ((job.id, "ann"), (dead, "bob"), ("job_" + "0" * 24, None))
    ]
    assert outcomes == ["not-failed", "missing", "missing"]
    assert (await installation.store.retry(dead, "ann", queue_limit=1, tenant_limit=9)).outcome == "queue-full"
    assert (await installation.store.retry(dead, "ann", queue_limit=9, tenant_limit=1)).outcome == "tenant-full"


async def test_a_retry_keeps_its_webhook(
    installation: Installation, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = new_job(webhook=Webhook(url="https://example.org/hook", events=["job.queued"]))
    await installation.store.submit(job, **LIMITS)
    for _ in range(keys.MAX_ATTEMPTS):
        assert installation.claim("w1")
        await installation.crash(job.id)
    new = await installation.store.retry(job.id, "ann", **LIMITS)
    assert f"{new.id}/job.queued/0" in redis_client.zrange(keys.OUTBOX, 0, -1)


async def test_attempts_without_a_result_are_orphans(
    installation: Installation, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = new_job()
    await installation.store.submit(job, **LIMITS)
    crashed = installation.claim("w1")
    await installation.crash(job.id)
    given_back = installation.claim("w1")
    assert crashed
    assert given_back
    assert installation.ownership.give_back(given_back, "worker-stopped")
    winner = installation.claim("w1")
    assert winner
    installation.ownership.succeed(winner, [], timings={}, warnings=[], steps=1)
    dead = sorted(f"{job.id}/{each.token}" for each in (crashed, given_back))
    assert sorted(redis_client.zrange(keys.ORPHANS, 0, -1)) == dead
    assert await installation.store.leftovers.orphans() == []
    redis_client.zadd(keys.ORPHANS, dict.fromkeys(dead, 1))
    assert sorted(await installation.store.leftovers.orphans()) == dead
    await installation.store.leftovers.tidied(dead[0])
    assert await installation.store.leftovers.orphans() == dead[1:]


async def test_redis_came_back_empty(installation: Installation, new_job: NewJobs, redis_client: redis.Redis) -> None:
    job = new_job()
    await installation.store.submit(job, **LIMITS)
    kept = redis_client.get(keys.EPOCH)
    redis_client.flushall()
    with pytest.raises(QueueLost, match="restart the gateways"):
        await installation.store.get(job.id, "ann")
    for call in (
        installation.store.submit(new_job(), **LIMITS),
        installation.store.list_jobs("ann", limit=3),
        installation.store.retry(job.id, "ann", **LIMITS),
        installation.store.require_epoch(),
    ):
        with pytest.raises(QueueLost):
            await call
    redis_client.set(keys.EPOCH, kept)
    assert (await installation.store.submit(new_job(), **LIMITS)).outcome == "created", "the files were restored"


async def test_another_redis_is_not_taken_for_ours(
    installation: Installation, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    await installation.store.submit(new_job(), **LIMITS)
    redis_client.set(keys.EPOCH, "another")
    with pytest.raises(QueueLost):
        await installation.store.submit(new_job(), **LIMITS)
    installation.store.begin_anew()
    assert (await installation.store.submit(new_job(), **LIMITS)).outcome == "created"
