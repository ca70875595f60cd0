"""Which accepted jobs a Redis lacks that came back: what is remembered, for how long, and who is told.

tests/faults/test_sentinel.py kills a real primary; here another server is only believed to answer.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
import redis.asyncio

from app.contract.redis import keys, lost_jobs
from app.contract.redis.lost_jobs import AcceptedJobs, JobLost
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(store: JobStore) -> Clock:
    clock = Clock()
    store.accepted = AcceptedJobs(store._redis, clock=clock)
    return clock


async def submitted(store: JobStore, job: NewJob) -> str:
    assert (await store.submit(job, queue_limit=99, tenant_limit=99)).outcome == "created"
    return job.id


def another_server_answers(store: JobStore) -> None:
    store.accepted._server = "another"


async def test_what_another_server_lacks_is_lost_and_its_caller_is_told(
    store: JobStore, new_job: Callable[..., NewJob], redis_client: redis.Redis, clock: Clock
) -> None:
    kept, gone = await submitted(store, new_job()), await submitted(store, new_job())
    assert await store.accepted.find_lost() == []
    redis_client.delete(keys.JOB + gone)
    assert await store.accepted.find_lost() == [], "the same server as before: somebody has deleted it"
    another_server_answers(store)
    assert await store.accepted.find_lost() == [gone]
    assert (await store.accepted.find_lost(), store.accepted.lost) == ([], 1)
    with pytest.raises(JobLost) as told:
        await store.get(gone, "ann")
    assert told.value.job_id == gone
    assert await store.get(gone, "bob") is None
    assert (await store.get(kept, "ann")) is not None
    with pytest.raises(JobLost):
        await store.get_all([kept, gone], "ann")
    with pytest.raises(JobLost):
        await store.retry(gone, "ann", queue_limit=9, tenant_limit=9)
    assert 0 < redis_client.ttl(keys.LOST + gone) <= keys.LOST_SECONDS


async def test_what_was_deleted_is_not_lost(
    store: JobStore, new_job: Callable[..., NewJob], redis_client: redis.Redis, clock: Clock
) -> None:
    job = await submitted(store, new_job())
    await store.accepted.find_lost()
    await store.cancel(job, "ann")
    assert await store.forget(job)
    another_server_answers(store)
    assert await store.accepted.find_lost() == []
    assert await store.get(job, "ann") is None


async def test_a_connection_that_still_wrote_to_the_old_one_is_found_out_for_a_minute(
    store: JobStore, new_job: Callable[..., NewJob], redis_client: redis.Redis, clock: Clock
) -> None:
    await store.accepted.find_lost()
    another_server_answers(store)
    assert await store.accepted.find_lost() == []
    late = await submitted(store, new_job())
    redis_client.delete(keys.JOB + late)
    clock.now += lost_jobs.LOOKS_SECONDS - 1
    assert await store.accepted.find_lost() == [late]
    later = await submitted(store, new_job())
    redis_client.delete(keys.JOB + later)
    clock.now += 1
    assert await store.accepted.find_lost() == []


async def test_a_minute_is_remembered_up_to_the_last_that_was_accepted(
    store: JobStore, new_job: Callable[..., NewJob], redis_client: redis.Redis, clock: Clock
) -> None:
    await store.accepted.find_lost()
    old = await submitted(store, new_job())
    clock.now += lost_jobs.REMEMBERED_SECONDS + 1
    last = await submitted(store, new_job())
    clock.now += 3_600  # nobody was primary for so long, so nothing was accepted
    redis_client.delete(keys.JOB + old, keys.JOB + last)
    another_server_answers(store)
    assert await store.accepted.find_lost() == [last]


async def test_what_was_accepted_long_ago_is_not_looked_for(
    store: JobStore, new_job: Callable[..., NewJob], redis_client: redis.Redis, clock: Clock
) -> None:
    """In a quiet service nothing else is accepted, and another process may have removed it long since."""
    job = await submitted(store, new_job())
    await store.accepted.find_lost()
    clock.now += lost_jobs.REMEMBERED_SECONDS + 1
    assert await store.accepted.find_lost() == []
    redis_client.delete(keys.JOB + job)
    another_server_answers(store)
    assert await store.accepted.find_lost() == []


async def test_one_that_cannot_be_marked_is_found_again(
    store: JobStore, new_job: Callable[..., NewJob], redis_client: redis.Redis, clock: Clock
) -> None:
    """What was marked before it is counted, and nothing is struck from memory that nobody can be told of."""
    first, second = await submitted(store, new_job()), await submitted(store, new_job())
    await store.accepted.find_lost()
    redis_client.delete(keys.JOB + first, keys.JOB + second)
    another_server_answers(store)
    own, said = store.accepted._redis.set, list[str]()

    async def refuses_the_second(key: str, *args: object, **options: object) -> object:
        said.append(key)
        if len(said) == 2:
            raise redis.ConnectionError
        return await own(key, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.accepted._redis, "set", refuses_the_second)
        with pytest.raises(redis.ConnectionError):
            await store.accepted.find_lost()
    assert store.accepted.lost == 1
    assert await store.accepted.find_lost() == [second]
    assert redis_client.exists(keys.LOST + first, keys.LOST + second) == 2


async def test_memory_is_bounded(store: JobStore, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(lost_jobs, "MOST_REMEMBERED", 3)
    for number in range(10):
        store.accepted.add(str(number), "ann")
    assert [*store.accepted._jobs] == ["7", "8", "9"]
