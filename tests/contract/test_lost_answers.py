"""Every script runs, its answer is lost, and it is called again: nothing differs from one call whose answer came.

The state machine does this with the life of a job; here is what it does not see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.job import cost_of
from app.contract.redis import keys, rq_names
from app.contract.redis.ownership import Beat, Ownership
from app.contract.redis.pending_requests import PendingRequests
from app.contract.redis.quota import Budget, Quota
from app.contract.redis.store import JobStore, NewJob, Submission
from app.contract.redis.webhook_secrets import Secrets
from app.edge.keyring import Keyring
from tests.forgetful import Losses

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
LIMITS = {"queue_limit": 100, "tenant_limit": 100}
BUDGET = Budget("cost:ann", 100)


@pytest.fixture
def store(forgetful: redis.asyncio.Redis) -> JobStore:
    return JobStore(forgetful)


@pytest.fixture
def ownership(forgetful_worker: redis.Redis) -> Ownership:
    return Ownership(forgetful_worker)


def events_of(redis_client: redis.Redis, job_id: str) -> list[str]:
    return [fields["event"] for _, fields in redis_client.xrange(keys.EVENTS + job_id)]


def charged(redis_client: redis.Redis) -> int:
    return int(redis_client.hget(keys.LIMITS + BUDGET.counter, "used") or 0)


@pytest.mark.parametrize("key", [None, "k" * 64])
async def test_a_job_comes_in_once_and_is_paid_once(
    store: JobStore, new_job: NewJobs, redis_client: redis.Redis, key: str | None
) -> None:
    job = new_job()
    submission = await store.submit(job, idempotency_key=key, body_hash="aa", budget=BUDGET, **LIMITS)
    assert submission == Submission("created", job.id, await store.get(job.id, "ann")), "it is no replay to its maker"
    assert events_of(redis_client, job.id) == ["job.queued"]
    assert (redis_client.zcard(keys.QUEUED + "starter"), redis_client.llen("rq:queue:generate-starter")) == (1, 1)
    assert charged(redis_client) == pytest.approx(cost_of(job.spec), abs=1)


async def test_a_job_that_was_taken_meanwhile_is_told_as_it_is(
    store: JobStore, ownership: Ownership, new_job: NewJobs, valkey_url: str, redis_client: redis.Redis
) -> None:
    """The answer is lost for so long that a worker has finished when the question comes again."""
    losses = Losses(1, breaks=True)
    async with losses.async_client(valkey_url) as client:
        slow, job = JobStore(client), new_job()
        with pytest.raises(redis.ConnectionError):
            await slow.submit(job, **LIMITS)
        claim = ownership.claim("starter", "w1")
        assert claim is not None
        assert ownership.succeed(claim, [], timings={}, warnings=[], steps=20)
        again = await slow.submit(job, **LIMITS)
    assert (again.outcome, again.id) == ("created", job.id)
    assert again.record is not None
    assert again.record.status is Status.SUCCEEDED
    assert events_of(redis_client, job.id) == ["job.queued", "job.started", "job.succeeded"]


async def test_a_claim_gives_the_same_job_again(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    jobs = [new_job() for _ in range(2)]
    for job in jobs:
        await store.submit(job, **LIMITS)
    claims = [ownership.claim("starter", "w1") for _ in range(3)]
    assert [claim and claim.id for claim in claims] == [*(job.id for job in jobs), None]
    assert redis_client.zcard(keys.LEASES) == 2
    for job in jobs:
        assert events_of(redis_client, job.id) == ["job.queued", "job.started"]


async def test_a_claim_whose_caller_gave_up_is_kept_for_it(
    store: JobStore, new_job: NewJobs, valkey_url: str, redis_client: redis.Redis
) -> None:
    """redis-py has no tries left; the worker asks again a second later, and gets the job that it owns."""
    first, second = new_job(), new_job()
    for job in (first, second):
        await store.submit(job, **LIMITS)
    with Losses(1, breaks=True).client(valkey_url) as client:
        worker = Ownership(client)
        with pytest.raises(redis.ConnectionError):
            worker.claim("starter", "w1")
        claims = [worker.claim("starter", "w1", holding=held) for held in range(3)]
    assert [claim and (claim.id, claim.attempt) for claim in claims] == [(first.id, 1), (second.id, 1), None]


async def test_a_claim_whose_caller_gave_up_and_leaves_is_given_back(
    store: JobStore, new_job: NewJobs, valkey_url: str, redis_client: redis.Redis
) -> None:
    """A worker that is drained or told to stop just then asks for no job any more."""
    job = new_job()
    await store.submit(job, **LIMITS)
    with Losses(1, breaks=True).client(valkey_url) as client:
        worker = Ownership(client)
        worker.give_back_unanswered("w1")
        with pytest.raises(redis.ConnectionError):
            worker.claim("starter", "w1")
        assert redis_client.zcard(keys.LEASES) == 1
        worker.give_back_unanswered("w1")
        worker.give_back_unanswered("w1")
    assert redis_client.hmget(keys.JOB + job.id, "status", "failures") == ["queued", "0"]
    assert (redis_client.zcard(keys.LEASES), redis_client.zcard(keys.QUEUED + "starter")) == (0, 1)
    assert events_of(redis_client, job.id) == ["job.queued", "job.started", "job.restarted"]


async def test_who_leaves_begins_no_job(
    store: JobStore,
    new_job: NewJobs,
    forgetful_worker: redis.Redis,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its claim never came to Redis, as while Redis is started again; or comes behind its last word."""
    job, worker, late = new_job(), Ownership(forgetful_worker), list[list[str]]()
    await store.submit(job, **LIMITS)
    claim = worker._scripts["claim"]

    def away(args: list[str]) -> None:
        late.append(args)
        raise redis.ConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setitem(worker._scripts, "claim", away)
        with pytest.raises(redis.ConnectionError):
            worker.claim("starter", "w1")
    worker.give_back_unanswered("w1")
    assert claim(args=late[0]) is None
    assert events_of(redis_client, job.id) == ["job.queued"]
    assert redis_client.zcard(keys.IDLE + "starter") == 0, "nobody tells it of a job"
    again = worker.claim("starter", "w1")
    assert again is not None
    assert again.id == job.id, "one that has not left after all draws another token"


async def test_a_claim_that_was_lost_meanwhile_uses_its_token_up(
    store: JobStore, new_job: NewJobs, valkey_url: str, lease_runs_out: Callable[[str], None], redis_client: redis.Redis
) -> None:
    """With the same token, the second attempt's pictures would be tidied away with the first one's."""
    job = new_job()
    await store.submit(job, **LIMITS)
    with Losses(1, breaks=True).client(valkey_url) as client:
        worker = Ownership(client)
        with pytest.raises(redis.ConnectionError):
            worker.claim("starter", "w1")
        lost = redis_client.hget(keys.JOB + job.id, "token")
        lease_runs_out(job.id)
        await store.reap()
        assert worker.claim("starter", "w1") is None
        claim = worker.claim("starter", "w1")
    assert claim is not None
    assert claim.token != lost
    assert claim.attempt == 2


async def test_a_suspended_queue_still_gives_what_is_owned(
    store: JobStore, new_job: NewJobs, valkey_url: str, redis_client: redis.Redis
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    with Losses(1, breaks=True).client(valkey_url) as client:
        worker = Ownership(client)
        with pytest.raises(redis.ConnectionError):
            worker.claim("starter", "w1")
        redis_client.set(rq_names.RQ_SUSPENDED, 1)
        claim = worker.claim("starter", "w1")
    assert claim is not None
    assert claim.id == job.id


async def test_news_are_told_once(
    store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert ownership.progress(claim, 5, 20)
    assert ownership.preview(claim, 0, 5, 20, "anVzdA==")
    assert ownership.preview(claim, 1, 5, 20, "anVzdA==")
    assert ownership.beat([claim]) == [Beat.KEPT]
    assert ownership.give_back(claim, "worker-stopped")
    again = ownership.claim("starter", "w2")
    assert again is not None
    assert ownership.preview(again, 0, 5, 20, "anVzdA=="), "another attempt tells its own"
    assert events_of(redis_client, job.id) == [
        "job.queued", "job.started", "job.progress", "job.preview", "job.preview", "job.restarted", "job.started",
        "job.preview",
    ]  # fmt: skip


async def test_a_retry_is_one_job_paid_once(
    store: JobStore,
    ownership: Ownership,
    new_job: NewJobs,
    redis_client: redis.Redis,
    lease_runs_out: Callable[[str], None],
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    for _ in range(keys.MAX_ATTEMPTS):
        assert ownership.claim("starter", "w1")
        lease_runs_out(job.id)
        await store.reap()
    again = await store.retry(job.id, "ann", budget=BUDGET, **LIMITS)
    assert again.outcome == "created", "its maker pays, and is told that it is new"
    assert charged(redis_client) == pytest.approx(cost_of(job.spec), abs=1)
    assert (await store.retry(job.id, "ann", budget=BUDGET, **LIMITS)).outcome == "replayed"
    assert charged(redis_client) == pytest.approx(cost_of(job.spec), abs=1)
    assert redis_client.zcard(keys.QUEUED + "starter") == 1


async def test_a_request_is_counted_once(forgetful: redis.asyncio.Redis) -> None:
    quota, budget = Quota(forgetful), Budget("requests:ann", 3)
    answers = [await quota.count(budget) for _ in range(4)]
    assert [(allowed, left.amount) for allowed, left in answers] == [(True, 2), (True, 1), (True, 0), (False, 0)]


async def test_a_rotation_happens_once(
    forgetful: redis.asyncio.Redis, valkey_url: str, redis_client: redis.Redis
) -> None:
    secrets = Secrets(forgetful)
    (first,) = await secrets.current("ann")
    second, previous = await secrets.rotate("ann")
    assert previous == first, "said again, the fresh secret took its own place"
    assert await secrets.current("ann") == [second, first]


async def test_a_rotation_that_is_said_again_does_not_undo_another(
    valkey_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.contract.redis.webhook_secrets.new_secret", lambda: "whsec_mine")
    async with Losses(1, breaks=True).async_client(valkey_url) as client:
        mine = Secrets(client)
        with pytest.raises(redis.ConnectionError):
            await mine.rotate("ann")
        monkeypatch.setattr("app.contract.redis.webhook_secrets.new_secret", lambda: "whsec_theirs")
        await mine.rotate("ann")
        monkeypatch.setattr("app.contract.redis.webhook_secrets.new_secret", lambda: "whsec_mine")
        assert await mine.rotate("ann") == ["whsec_theirs", "whsec_mine"]


async def test_one_gateway_reaps(store: JobStore, redis_client: redis.Redis) -> None:
    """The lock is set by a plain command, whose second call finds the first one's."""
    redis_client.set(keys.REAPER_LOCK, "mine")
    assert await store.try_lock_reaper("mine", seconds=3_600)
    assert not await store.try_lock_reaper("another", seconds=3_600)


async def test_a_waiting_request_joins_one_job(forgetful: redis.asyncio.Redis) -> None:
    """Two equal requests wait; whoever comes again for each finds each, though every answer was lost."""
    pending = PendingRequests(forgetful)
    for job_id in ("a", "b"):
        await pending.wait("name", job_id, f"waits for {job_id}".replace(" ", "-"))
    assert {await pending.join("name", again, again=True) for again in ("one", "other")} == {"a", "b"}
    assert await pending.give_up("name", "a", "one") is (await pending.join("name", "third", again=False) is None)


async def test_a_service_that_was_opened_is_told_so(
    valkey_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py cannot say a watched transaction again: it reports a change that was none."""
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        keyring = Keyring(client)
        _, info = await keyring.create("ann")
        assert await keyring.revoke(info.id)
        execute = redis.asyncio.client.Pipeline.execute

        async def lose_the_reply(pipeline: redis.asyncio.client.Pipeline, *arguments: Any, **options: Any) -> None:
            await execute(pipeline, *arguments, **options)
            raise redis.WatchError("A ConnectionError occurred while watching one or more keys")

        monkeypatch.setattr(redis.asyncio.client.Pipeline, "execute", lose_the_reply)
        assert await keyring.open()
        assert await keyring.open_until() is not None


async def test_a_model_is_forgotten_once(store: JobStore, redis_client: redis.Redis, card: ModelCard) -> None:
    Ownership(redis_client).announce(card, "w1")
    Ownership(redis_client).leave(card.name, "w1")
    assert await store.models.forget(card.name) == ("forgotten", 0)
    assert await store.models.forget(card.name) == ("missing", 0)
