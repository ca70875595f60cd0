"""Models in Redis: who serves them, since when nobody does, and how one is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.new_job import NewJob
from app.contract.redis import keys, rq_names
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore

pytestmark = pytest.mark.anyio
LIMITS = {"queue_limit": 100, "tenant_limit": 100}


def redis_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()  # type: ignore[misc]
    return int(seconds) * 1000 + int(micros) // 1000


async def test_a_model_is_seen_for_as_long_as_it_has_a_worker(
    store: JobStore, ownership: Ownership, card: ModelCard, redis_client: redis.Redis
) -> None:
    before = redis_ms(redis_client)
    ownership.announce(card, "w1")
    ownership.announce(card, "w2")
    ownership.leave("starter", "w1")
    served = (await store.models.all())["starter"]
    assert (served.workers, served.away_seconds) == (1, 0.0)
    assert before <= served.seen_ms <= redis_ms(redis_client)


async def test_the_last_one_that_leaves_is_noted_once(
    store: JobStore, ownership: Ownership, card: ModelCard, redis_client: redis.Redis
) -> None:
    ownership.announce(card, "w1")
    redis_client.zadd(keys.SEEN, {"starter": 1})
    before = redis_ms(redis_client)
    ownership.leave("starter", "w1")
    left = (await store.models.all())["starter"]
    assert left.workers == 0
    assert before <= left.seen_ms <= redis_ms(redis_client)
    redis_client.zadd(keys.SEEN, {"starter": 1_000})
    ownership.leave("starter", "w1")
    again = (await store.models.all())["starter"]
    assert again.seen_ms == 1_000, "leaving twice is leaving once"
    assert again.away_seconds == pytest.approx((redis_ms(redis_client) - 1_000) / 1000, abs=3_600)


async def test_a_worker_that_fell_silent_was_seen_at_its_last_beat(
    store: JobStore, ownership: Ownership, card: ModelCard, redis_client: redis.Redis
) -> None:
    ownership.announce(card, "w1")
    redis_client.zadd(keys.ALIVE + "starter", {"w1": 5_000})
    redis_client.zadd(keys.SEEN, {"starter": 4_000})
    served = (await store.models.all())["starter"]
    assert (served.workers, served.seen_ms) == (0, 5_000)


async def test_a_card_of_an_older_release_is_away_since_it_was_looked_at(
    store: JobStore, card: ModelCard, redis_client: redis.Redis
) -> None:
    """It noted no leaving."""
    redis_client.hset(keys.CARDS, "starter", card.model_dump_json())
    redis_client.hset(keys.PACE + "starter", "job_ms", 8_000)
    before = redis_ms(redis_client)
    first = (await store.models.all())["starter"]
    assert before <= first.seen_ms <= redis_ms(redis_client)
    assert (first.pace_ms, first.seat_ms) == (8_000.0, 8_000.0)
    redis_client.zadd(keys.SEEN, {"starter": 1_000})
    assert (await store.models.all())["starter"].seen_ms == 1_000, "from then on it is remembered"


async def test_a_worker_of_an_older_release_was_seen_as_well(
    store: JobStore, ownership: Ownership, card: ModelCard, redis_client: redis.Redis
) -> None:
    """It beats, and leaves without a word."""
    ownership.announce(card, "w1")
    redis_client.zadd(keys.SEEN, {"starter": 1_000})
    redis_client.zadd(keys.ALIVE + "starter", {"w1": 100_000})
    assert (await store.models.all())["starter"].seen_ms == 100_000
    redis_client.zrem(keys.ALIVE + "starter", "w1")
    assert (await store.models.all())["starter"].seen_ms == 100_000


async def test_a_model_is_forgotten_with_everything_but_its_jobs(
    store: JobStore,
    ownership: Ownership,
    new_job: Callable[..., NewJob],
    card: ModelCard,
    redis_client: redis.Redis,
) -> None:
    ownership.announce(card, "w1")
    ownership.announce(card.model_copy(update={"name": "other"}), "w9")
    job = new_job()
    await store.submit(job, **LIMITS)
    assert await store.models.forget("starter") == ("awake", 1)
    ownership.leave("starter", "w1")
    assert await store.models.forget("starter") == ("queued", 1)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert await store.models.forget("starter") == ("running", 1)
    assert "starter" in await store.models.all()
    assert ownership.succeed(claim, [], timings={}, warnings=[], steps=1)

    assert await store.models.forget("starter") == ("forgotten", 0)
    assert await store.models.forget("starter") == ("missing", 0), "called again because the answer was lost"
    assert list(await store.models.all()) == ["other"]
    record = await store.get(job.id, "ann")
    assert record is not None
    assert record.status is Status.SUCCEEDED
    left = {key for key in redis_client.scan_iter("*") if "starter" in str(key)}
    assert left == set()
    names = [str(name) for key in (keys.MODELS_QUEUED, rq_names.RQ_QUEUES) for name in redis_client.smembers(key)]  # type: ignore[union-attr]
    assert not [name for name in names if "starter" in name]

    ownership.leave("starter", "w1")
    assert list(await store.models.all()) == ["other"], "a late goodbye does not bring it back"
    ownership.announce(card, "w2")
    assert (await store.models.all())["starter"].workers == 1
    assert (await store.submit(new_job(), **LIMITS)).outcome == "created"
    assert ownership.claim("starter", "w2") is not None


async def test_waiting_jobs_of_all_tenants_are_called_off(
    store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob], card: ModelCard
) -> None:
    ownership.announce(card, "w1")
    jobs = [new_job(tenant=tenant) for tenant in ("ann", "bob", "ann")]
    for job in jobs:
        await store.submit(job, **LIMITS)
    assert ownership.claim("starter", "w1") is not None
    assert await store.cancel_waiting("starter") == 2
    assert await store.cancel_waiting("starter") == 0
    records = [await store.get(job.id, job.tenant) for job in jobs]
    assert sorted(record.status for record in records if record) == [Status.CANCELED, Status.CANCELED, Status.RUNNING]
