"""Lists by pages: the same as filtering everything would give, for the work of one page, also after an upgrade."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import get_args

import pytest
import redis

from app.contract.messages.events import Status
from app.contract.messages.job import JobError, Record, new_job_id
from app.contract.messages.questions import ScoreSpec, Task, no_picture
from app.contract.redis import keys
from app.contract.redis.ownership import Ownership
from app.contract.redis.scripts import source
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
LIMITS = {"queue_limit": 1_000, "tenant_limit": 1_000}


def asking(tenant: str, *, model: str) -> NewJob:
    question = ScoreSpec(model=model, images=(), texts=("a red circle",))
    return NewJob(new_job_id(), tenant, no_picture(question), retention_ms=60_000, metadata={}, question=question)


async def some_jobs(store: JobStore, ownership: Ownership, new_job: NewJobs, count: int) -> None:
    """Jobs of ann and a few of bob that have come to every end there is, and some that have not."""
    for number in range(count):
        job = new_job(tenant="bob" if number % 7 == 0 else "ann")
        if number % 4 == 0:
            job = asking(job.tenant, model=job.spec.model)
        await store.submit(job, **LIMITS)
        kind = number % 5
        if kind == 0:
            await store.cancel(job.id, job.tenant)
        elif kind < 4 and (claim := ownership.claim("starter", "w1")):
            if kind == 1:
                ownership.fail(claim, JobError(slug="numerical-error", detail="Values overflowed."))
            elif kind == 2:
                ownership.succeed(claim, [], timings={}, warnings=[], steps=1)


def crowd_in_time(redis_client: redis.Redis, chance: random.Random) -> None:
    """Many jobs of one moment: where one page ends, the next one must go on among them."""
    for tenant in ("ann", "bob"):
        ids = redis_client.zrange(keys.TENANT + tenant, 0, -1)
        moments = {job_id: 1_700_000_000_000 + chance.randrange(3) for job_id in ids}
        for job_id, moment in moments.items():
            redis_client.hset(keys.JOB + job_id, "created_ms", moment)
        indices = redis_client.keys(f"{keys.ENDED}*:{tenant}") + redis_client.keys(f"{keys.OF_TASK}*:{tenant}")
        for key in [keys.TENANT + tenant, *indices]:
            for job_id in redis_client.zrange(key, 0, -1):
                redis_client.zadd(key, {job_id: moments[job_id]})


def filtered(redis_client: redis.Redis, tenant: str, status: Status | None, task: Task | None) -> list[str]:
    """The truth, by looking at every record there is."""
    records = [Record.from_hash(redis_client.hgetall(key)) for key in redis_client.keys(keys.JOB + "*")]
    asked = [record for record in records if status in (None, record.status) and task in (None, record.task)]
    mine = [record for record in asked if record.tenant == tenant]
    return [record.id for record in sorted(mine, key=lambda record: (record.created_ms, record.id), reverse=True)]


async def paged(
    store: JobStore, tenant: str, status: Status | None, task: Task | None = None, *, size: int
) -> list[str]:
    """The same by following the pages."""
    found: list[str] = []
    place = None
    while page := await store.list_jobs(tenant, limit=size, before=place, status=status, task=task):
        assert len(page) <= size
        found += [record.id for record in page]
        place = (page[-1].created_ms, page[-1].id)
    return found


async def all_is_listed(store: JobStore, redis_client: redis.Redis, *, sizes: tuple[int, ...] = (1, 4, 100)) -> None:
    for tenant in ("ann", "bob", "nobody"):
        for status, task in itertools.product((None, *Status), (None, "draw", "score")):
            expected = filtered(redis_client, tenant, status, task)  # type: ignore[arg-type]
            for size in sizes:
                found = await paged(store, tenant, status, task, size=size)  # type: ignore[arg-type]
                assert found == expected, (tenant, status, task, size)


async def test_pages_are_what_filtering_would_give(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    await some_jobs(store, ownership, new_job, 40)
    await all_is_listed(store, redis_client)
    crowd_in_time(redis_client, random.Random(7))
    await all_is_listed(store, redis_client)


@pytest.mark.parametrize("task", [None, "draw", "score", "embed"])
@pytest.mark.parametrize("index", [keys.ENDED, keys.OF_TASK])
async def test_jobs_that_an_older_version_ended_are_found(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis, index: str, task: Task | None
) -> None:
    """An installation before there was an index has none of its keys, and anything may be the first to be asked for."""
    await some_jobs(store, ownership, new_job, 20)
    assert redis_client.delete(*redis_client.keys(index + "*")) >= 3
    for status in (Status.FAILED, None):
        assert await paged(store, "ann", status, task, size=3) == filtered(redis_client, "ann", status, task)
    await all_is_listed(store, redis_client, sizes=(3,))


async def test_older_processes_may_go_on_beside_newer_ones(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    """Their workers end jobs without entering them, and their gateways forget jobs without taking them out."""
    await some_jobs(store, ownership, new_job, 40)
    [ended, kept, *_] = await store.list_jobs("ann", limit=9, status=Status.SUCCEEDED)
    redis_client.zrem(f"{keys.ENDED}succeeded:ann", ended.id)
    assert ended.id in await paged(store, "ann", Status.SUCCEEDED, size=3)
    redis_client.zrem(keys.TENANT + "ann", kept.id)
    redis_client.delete(keys.JOB + kept.id)
    assert kept.id not in await paged(store, "ann", Status.SUCCEEDED, size=3)
    assert kept.id not in await paged(store, "ann", Status.SUCCEEDED, kept.task, size=3)
    await all_is_listed(store, redis_client, sizes=(3,))


async def test_what_is_forgotten_leaves_the_index(store: JobStore, new_job: NewJobs, redis_client: redis.Redis) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    await store.cancel(job.id, "ann")
    assert redis_client.zrange(f"{keys.ENDED}canceled:ann", 0, -1) == [job.id]
    await store.forget(job.id)
    assert redis_client.keys(keys.ENDED + "*") + redis_client.keys(keys.OF_TASK + "*") == []


def read_so_far(redis_client: redis.Redis) -> int:
    """Records and fields of records that Redis was asked for."""
    stats = redis_client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("hgetall", "hmget", "hget", "exists"))


async def test_a_page_of_a_task_costs_what_is_on_it(
    store: JobStore, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    """The page asks for drawings every few seconds; they may lie below hundreds of questions."""
    drawn = new_job()
    await store.submit(drawn, **LIMITS)
    for _ in range(100):
        job = asking("ann", model="starter")
        await store.submit(job, **LIMITS)
        await store.cancel(job.id, "ann")
    before = read_so_far(redis_client)
    [found] = await store.list_jobs("ann", limit=20, task="draw")
    assert found.id == drawn.id
    assert await store.list_jobs("ann", limit=20, task="draw", status=Status.CANCELED) == []
    assert read_so_far(redis_client) - before <= 4


def test_every_task_has_its_index() -> None:
    """A task that the scripts know nothing of would make every list of one look as if it were not whole."""
    known = source("list").partition("local TASKS = {")[2].partition("}")[0]
    assert known == ", ".join(f"'{task}'" for task in get_args(Task))


@pytest.mark.parametrize("status", [Status.FAILED, Status.QUEUED])
async def test_a_page_costs_what_is_on_it(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis, status: Status
) -> None:
    """Not what the tenant has: three jobs of a status among hundreds of others."""
    for _ in range(300):
        job = new_job()
        await store.submit(job, **LIMITS)
        await store.cancel(job.id, "ann")
    for _ in range(3):
        await store.submit(new_job(), **LIMITS)
        if status is Status.FAILED and (claim := ownership.claim("starter", "w1")):
            ownership.fail(claim, JobError(slug="numerical-error", detail="Values overflowed."))
    before = read_so_far(redis_client)
    assert len(await store.list_jobs("ann", limit=20, status=status)) == 3
    assert read_so_far(redis_client) - before <= 4 * 3


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, None])
async def test_a_page_of_what_is_open_costs_what_is_on_it(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis, status: Status | None
) -> None:
    """Not what is open: a tenant may have thousands of waiting jobs, and each look at one holds everybody else up."""
    for _ in range(100):
        await store.submit(new_job(), **LIMITS)
    for _ in range(3):
        assert ownership.claim("starter", "w1")
    before = read_so_far(redis_client)
    assert len(await store.open_jobs("ann", limit=3, status=status)) == 3
    assert read_so_far(redis_client) - before <= 4 * 3
