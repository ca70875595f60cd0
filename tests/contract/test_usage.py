"""What callers use is counted where a job ends, once: every answer is lost here, and every call made again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import redis.asyncio

from app.contract.messages.job import JobError, KeptTrajectory, Picture, StoredFile
from app.contract.messages.questions import EmbedResult
from app.contract.messages.usage import Usage, Work
from app.contract.redis import keys
from app.contract.redis.inputs import InputStore, Orphan
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob
from app.contract.redis.usage import UsageStore

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
LIMITS = {"queue_limit": 100, "tenant_limit": 100}
WORK = Work(evaluations=20, rows=40, device_seconds=1.25)
WORKED = {"evaluations": 20, "rows": 40, "device_us": 1_250_000}
FILE = StoredFile(key="k", sha256="0" * 64, bytes=7, content_type="application/json")
PICTURE = Picture(
    index=0, key="k", sha256="0" * 64, seed=1, width=64, height=64, content_type="image/png", bytes=100
)  # fmt: skip


@pytest.fixture
def store(forgetful: redis.asyncio.Redis) -> JobStore:
    return JobStore(forgetful)


@pytest.fixture
def usage(forgetful: redis.asyncio.Redis) -> UsageStore:
    return UsageStore(forgetful)


@pytest.fixture
def ownership(forgetful_worker: redis.Redis) -> Ownership:
    return Ownership(forgetful_worker)


async def claimed(store: JobStore, ownership: Ownership, job: NewJob) -> Claim:
    await store.submit(job, **LIMITS)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    return claim


async def used(usage: UsageStore, tenant: str = "ann") -> Usage:
    """By the tenant's jobs of this test, at whatever moment of whatever day it runs."""
    today = await usage.today()
    days = await usage.of(tenant, today - timedelta(days=1), today + timedelta(days=1))
    return sum((each for _, _, each in days), Usage())


async def test_what_each_end_counts(store: JobStore, ownership: Ownership, usage: UsageStore, new_job: NewJobs) -> None:
    claim = await claimed(store, ownership, new_job())
    assert await used(usage) == Usage(), "nothing before its end"
    kept = [PICTURE, PICTURE.model_copy(update={"trajectory": KeptTrajectory(steps=2, files={"json": FILE})})]
    assert ownership.succeed(claim, kept, timings={}, warnings=[], steps=20, work=WORK)
    expected = Usage(succeeded=1, pictures=2, stored_bytes=207, **WORKED)
    assert await used(usage) == expected
    claim = await claimed(store, ownership, new_job())
    assert ownership.fail(claim, JobError(slug="numerical-error", detail="."), work=WORK)
    assert await used(usage) == (expected := expected + Usage(failed=1, **WORKED))
    claim = await claimed(store, ownership, new_job())
    assert ownership.canceled(claim, work=WORK)
    assert await used(usage) == (expected := expected + Usage(canceled=1, **WORKED))
    claim = await claimed(store, ownership, new_job())
    answer = EmbedResult(model_sha256="0", dimensions=1, vectors=(), tokens=1)
    assert ownership.answered(claim, answer, timings={}, warnings=[], work=Work(device_seconds=0.25))
    assert await used(usage) == expected + Usage(succeeded=1, device_us=250_000)
    assert await used(usage, "bob") == Usage()


async def test_a_job_that_is_canceled_before_it_began_has_used_nothing(
    store: JobStore, usage: UsageStore, new_job: NewJobs
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    assert await store.cancel(job.id, "ann") == "canceled"
    assert await used(usage) == Usage(canceled=1)


async def test_a_job_that_comes_back_counts_once_and_its_work_each_time(
    store: JobStore, ownership: Ownership, usage: UsageStore, new_job: NewJobs
) -> None:
    claim = await claimed(store, ownership, new_job())
    assert ownership.give_back(claim, "worker-stopped", work=WORK)
    assert await used(usage) == Usage(**WORKED)
    again = ownership.claim("starter", "w2")
    assert again is not None
    assert not ownership.succeed(claim, [PICTURE], timings={}, warnings=[], steps=20, work=WORK), "it is another's now"
    assert ownership.succeed(again, [PICTURE], timings={}, warnings=[], steps=20, work=WORK)
    assert await used(usage) == Usage(**WORKED) + Usage(succeeded=1, pictures=1, stored_bytes=100, **WORKED)


async def test_a_job_that_is_called_off_and_given_back_is_canceled_with_its_work(
    store: JobStore, ownership: Ownership, usage: UsageStore, new_job: NewJobs
) -> None:
    claim = await claimed(store, ownership, new_job())
    assert await store.cancel(claim.id, "ann") == "requested"
    assert ownership.give_back(claim, "worker-stopped", work=WORK)
    assert await used(usage) == Usage(canceled=1, **WORKED)


async def test_lost_workers_say_nothing_of_their_work(
    store: JobStore, ownership: Ownership, usage: UsageStore, new_job: NewJobs, lease_runs_out: Callable[[str], None]
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    for attempt in range(keys.MAX_ATTEMPTS):
        assert await used(usage) == Usage()
        assert ownership.claim("starter", f"w{attempt}") is not None
        lease_runs_out(job.id)
        await store.reap()
    assert await used(usage) == Usage(failed=1)
    retrial = await store.retry(job.id, "ann", **LIMITS)
    assert retrial.outcome == "created"
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert ownership.succeed(claim, [PICTURE], timings={}, warnings=[], steps=20, work=WORK)
    expected = Usage(failed=1) + Usage(succeeded=1, pictures=1, stored_bytes=100, **WORKED)
    assert await used(usage) == expected, "a retry is a job of its own"


async def test_a_request_that_is_made_again_is_one_job(
    store: JobStore, ownership: Ownership, usage: UsageStore, new_job: NewJobs
) -> None:
    options: dict[str, Any] = {"idempotency_key": "k" * 8, "body_hash": "aa"} | LIMITS
    await store.submit(new_job(), **options)
    assert (await store.submit(new_job(), **options)).outcome == "replayed"
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert ownership.succeed(claim, [PICTURE], timings={}, warnings=[], steps=20, work=WORK)
    assert await used(usage) == Usage(succeeded=1, pictures=1, stored_bytes=100, **WORKED)


async def test_a_picture_that_comes_in_counts_where_it_is_new(
    forgetful: redis.asyncio.Redis, usage: UsageStore
) -> None:
    inputs, facts = InputStore(forgetful), {"bytes": 1_000, "width": 1, "height": 1, "content_type": "image/png"}
    for token in ("first", "second"):
        orphan = Orphan.of("ann", "a" * 64)
        assert await inputs.begin(orphan, token)
        await inputs.add(orphan, token, facts, retention_ms=60_000)
    assert await used(usage) == Usage(uploaded_bytes=1_000)


async def test_days_are_those_of_redis_and_go_by_themselves(
    store: JobStore, usage: UsageStore, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    today = await usage.today()
    for tenant in ("bob", "ann"):
        job = new_job(tenant=tenant)
        await store.submit(job, **LIMITS)
        await store.cancel(job.id, tenant)
    [key] = redis_client.scan_iter(f"{keys.USAGE}*")
    number = int(key.removeprefix(keys.USAGE))
    day = datetime.fromtimestamp(number * keys.DAY_SECONDS, UTC).date()
    assert day in (today, today + timedelta(days=1)), "midnight may have come"
    assert redis_client.expiretime(key) == (number + 1 + keys.USAGE_DAYS) * keys.DAY_SECONDS
    one = Usage(canceled=1)
    found = [each async for each in usage.of_all(today, today + timedelta(days=1))]
    assert found == [[(day, "ann", one), (day, "bob", one)]]
    assert [each async for each in usage.of_all(today + timedelta(days=2), today + timedelta(days=9))] == []


async def test_other_versions_count_less_or_more(usage: UsageStore, redis_client: redis.Redis) -> None:
    today = await usage.today()
    key = f"{keys.USAGE}{(today - datetime.fromtimestamp(0, UTC).date()).days}"
    redis_client.hset(key, mapping={"old": "1 2", "new": "1 2 3 4 5 6 7 8 9 10"})
    assert await usage.of("old", today, today) == [(today, "old", Usage(succeeded=1, failed=2))]
    [(_, _, found)] = await usage.of("new", today, today)
    assert (found.jobs, found.uploaded_bytes) == (6, 9)
