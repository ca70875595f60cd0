"""Whoever looks at a job is heard by its worker: with a word at once, and with the answer to each progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from app.contract.redis import keys, rq_names
from app.contract.redis.ownership import Claim, Ownership, StepsDone
from app.contract.redis.store import JobStore, NewJob
from app.contract.redis.watch_marks import WatchMarks
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def marks(store: JobStore) -> WatchMarks:
    return WatchMarks(store._redis)


@pytest.fixture
async def claim(store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]) -> Claim:
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    claimed = ownership.claim("starter", "w1")
    assert claimed is not None
    return claimed


@pytest.fixture
def said(redis_client: redis.Redis) -> Callable[[], list[str]]:
    """Whom the worker w1 was told to watch since this was last asked."""
    heard = redis_client.pubsub(ignore_subscribe_messages=True)
    heard.subscribe(rq_names.RQ_COMMANDS + "w1")
    messages: list[Any] = []

    def since() -> list[str]:
        redis_client.publish(rq_names.RQ_COMMANDS + "w1", "{}")
        messages.clear()
        until(lambda: messages.append(heard.get_message(timeout=1)) or (messages[-1] and messages[-1]["data"] == "{}"))
        commands = [json.loads(each["data"]) for each in messages if each and each["data"] != "{}"]
        assert all(each["command"] == "watch" for each in commands)
        return [each["job_id"] for each in commands]

    return since


def left(ownership: Ownership, claim: Claim, step: int = 1) -> int:
    [ms] = ownership.steps_done([StepsDone(claim, step, 20)])
    return ms


async def test_a_running_job_is_watched_from_the_first_look(
    claim: Claim, ownership: Ownership, marks: WatchMarks, said: Callable[[], list[str]]
) -> None:
    assert (left(ownership, claim), claim.watched_ms) == (0, 0)
    await marks.mark([claim.id])
    assert said() == [claim.id]
    assert 0 < left(ownership, claim) <= keys.WATCH_MS


async def test_a_look_that_lasts_is_told_of_once(
    claim: Claim, ownership: Ownership, marks: WatchMarks, said: Callable[[], list[str]], redis_client: redis.Redis
) -> None:
    for _ in range(3):
        await marks.mark([claim.id])
    assert said() == [claim.id]
    redis_client.hset(keys.JOB + claim.id, "watched_ms", 1)
    assert left(ownership, claim) == 0
    await marks.mark([claim.id])
    assert said() == [claim.id]


async def test_who_waited_in_the_queue_with_it_is_known_to_the_worker(
    store: JobStore,
    ownership: Ownership,
    marks: WatchMarks,
    new_job: Callable[..., NewJob],
    said: Callable[[], list[str]],
) -> None:
    job = new_job()
    await store.submit(job, queue_limit=10, tenant_limit=10)
    await marks.mark([job.id])
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert 0 < claim.watched_ms <= keys.WATCH_MS
    assert said() == []


async def test_what_is_over_or_was_never_there_keeps_no_mark(
    claim: Claim, ownership: Ownership, marks: WatchMarks, said: Callable[[], list[str]], redis_client: redis.Redis
) -> None:
    assert ownership.canceled(claim)
    await marks.mark([claim.id, "job_unknown"])
    assert said() == []
    assert not redis_client.hexists(keys.JOB + claim.id, "watched_ms")
    assert not redis_client.exists(keys.JOB + "job_unknown")


async def test_progress_of_several_jobs_is_one_call(
    claim: Claim, store: JobStore, ownership: Ownership, marks: WatchMarks, new_job: Callable[..., NewJob]
) -> None:
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    other = ownership.claim("starter", "w1", holding=1)
    assert other is not None
    await marks.mark([other.id])
    lost = Claim(claim.id, "another token", claim.spec, 1, 0, "")
    answers = ownership.steps_done([StepsDone(claim, 3, 20), StepsDone(lost, 9, 20), StepsDone(other, 5, 20, "prior")])
    assert (answers[0], answers[1], answers[2] > 0) == (0, -1, True)
    found = await store.get_all([claim.id, other.id], "ann")
    assert [(each.step, each.stage) for each in found] == [(3, ""), (5, "prior")]
