"""Workers with several folders: what they have in memory, what waits for them, and who takes up what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.redis import keys, rq_names
from app.contract.redis.model_demand import Demand, ModelDemand
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio
LIMITS = {"queue_limit": 100, "tenant_limit": 100}


@pytest.fixture
def demand(redis_client: redis.Redis) -> ModelDemand:
    return ModelDemand(redis_client)


async def test_who_has_a_model_in_memory_and_who_could(
    store: JobStore, ownership: Ownership, demand: ModelDemand, card: ModelCard
) -> None:
    ownership.announce(card, "w1", ready_in=12.0)
    ownership.announce(card, "w2", ready_in=7.5)
    served = (await store.models.all())["starter"]
    assert (served.workers, served.in_memory, served.ready_ms) == (2, 0, 7_500.0)
    ownership.announce(card, "w2")
    served = (await store.models.all())["starter"]
    assert (served.workers, served.in_memory, served.ready_ms) == (2, 1, None)
    assert demand.look(["starter"])["starter"].in_memory == 1
    ownership.leave("starter", "w2")
    served = (await store.models.all())["starter"]
    assert (served.workers, served.in_memory, served.ready_ms) == (1, 0, 12_000.0)


async def test_a_silent_worker_could_load_nothing(
    store: JobStore, ownership: Ownership, card: ModelCard, redis_client: redis.Redis
) -> None:
    ownership.announce(card, "w1", ready_in=1.0)
    redis_client.zadd(keys.ALIVE + "starter", {"w1": 5_000})
    ownership.announce(card, "w2")
    assert (await store.models.all())["starter"].in_memory == 1
    assert redis_client.hlen(keys.LOADABLE + "starter") == 0


async def test_a_silent_worker_hides_nobody_who_has_the_model(
    store: JobStore, ownership: Ownership, demand: ModelDemand, card: ModelCard, redis_client: redis.Redis
) -> None:
    """Until another beats, it is among those that would have to load it."""
    ownership.announce(card, "w1")
    ownership.announce(card, "w2", ready_in=1.0)
    redis_client.zadd(keys.ALIVE + "starter", {"w2": 5_000})
    assert (await store.models.all())["starter"].in_memory == 1
    assert demand.look(["starter"])["starter"].in_memory == 1


async def test_an_estimate_begins_with_the_loading(
    store: JobStore, ownership: Ownership, card: ModelCard, redis_client: redis.Redis
) -> None:
    redis_client.hset(keys.PACE + "starter", mapping={"job_ms": 3_000, "seat_ms": 8_000})
    ownership.announce(card, "w1")
    warm = (await store.models.all())["starter"].eta_seconds(2)
    ownership.announce(card, "w1", ready_in=20.0)
    cold = (await store.models.all())["starter"].eta_seconds(2)
    assert (warm, cold) == (2 * 8 / card.seats + 3, 20 + 2 * 8 / card.seats + 3)
    ownership.announce(card, "w2", ready_in=30.0)
    models = await store.models.all()
    assert models["starter"].eta_seconds(2) == cold, "those that could are not counted as if they did"


async def test_a_queue_is_unserved_since_its_first_job_or_the_last_claim(
    store: JobStore,
    ownership: Ownership,
    demand: ModelDemand,
    redis_client: redis.Redis,
    new_job: Callable[..., NewJob],
) -> None:
    assert demand.look(["starter", "other"])["starter"] == Demand(waiting=0, unserved=0.0, in_memory=0)
    for tenant in ("ann", "bob", "eve"):
        await store.submit(new_job(tenant=tenant), **LIMITS)
        assert redis_client.hset(keys.CLOCK + "starter", "unserved", 1) == 0, "later jobs do not change it"
    waits = demand.look(["starter"])["starter"]
    assert waits.waiting == 3
    assert waits.unserved > 1_000_000
    claimed = ownership.claim("starter", "w1")
    assert claimed is not None
    assert demand.look(["starter"])["starter"].unserved < 1_000
    redis_client.hset(keys.CLOCK + "starter", "unserved", 1)
    assert ownership.give_back(claimed, "worker-stopped")
    assert demand.look(["starter"])["starter"].unserved > 1_000_000, "one that comes back does not make it younger"
    for _ in range(3):
        assert ownership.claim("starter", "w1")
    assert demand.look(["starter"])["starter"] == Demand(waiting=0, unserved=0.0, in_memory=0)


async def test_jobs_of_a_release_that_does_not_note_it(
    store: JobStore, demand: ModelDemand, redis_client: redis.Redis, new_job: Callable[..., NewJob]
) -> None:
    job = new_job()
    await store.submit(job, **LIMITS)
    redis_client.hdel(keys.CLOCK + "starter", "unserved")
    redis_client.hset(keys.JOB + job.id, "created_ms", 1)
    assert demand.look(["starter"])["starter"].unserved > 1_000_000


async def test_nothing_waits_while_the_queues_are_suspended(
    store: JobStore, demand: ModelDemand, redis_client: redis.Redis, new_job: Callable[..., NewJob]
) -> None:
    await store.submit(new_job(), **LIMITS)
    redis_client.set(rq_names.RQ_SUSPENDED, 1)
    assert demand.look(["starter"])["starter"].waiting == 0


async def test_one_worker_takes_a_model_up(
    ownership: Ownership, demand: ModelDemand, card: ModelCard, redis_client: redis.Redis
) -> None:
    assert demand.take_up("starter", "w1", seen=0)
    assert demand.take_up("starter", "w1", seen=0), "said again after a lost answer"
    assert not demand.take_up("starter", "w2", seen=0)
    assert demand.look(["starter"])["starter"].taken_by == "w1"
    demand.taken_up("starter", "w2")
    assert demand.look(["starter"])["starter"].taken_by == "w1", "it was not that worker's"
    ownership.announce(card, "w1")
    demand.taken_up("starter", "w1")
    assert not demand.take_up("starter", "w2", seen=0), "it looked before the first had it"
    assert demand.take_up("starter", "w2", seen=1)


async def test_who_dies_while_it_loads_holds_it_for_a_lease_at_most(
    ownership: Ownership, demand: ModelDemand, card: ModelCard, redis_client: redis.Redis
) -> None:
    assert demand.take_up("starter", "w1", seen=0)
    never = -1
    assert never != redis_client.pttl(keys.TAKING_UP + "starter") <= keys.LEASE_MS
    demand.taken_up("starter", "w1")
    assert demand.take_up("starter", "w1", seen=0)
    redis_client.pexpire(keys.TAKING_UP + "starter", 100 * keys.LEASE_MS)
    ownership.announce(card, "w2", ready_in=1.0, is_taken_up=True)
    assert redis_client.pttl(keys.TAKING_UP + "starter") > keys.LEASE_MS, "another's beat changes nothing of it"
    ownership.announce(card, "w1", ready_in=1.0, is_taken_up=True)
    assert never != redis_client.pttl(keys.TAKING_UP + "starter") <= keys.LEASE_MS, "its own is for a lease more"
    ownership.worker_lost("w1")
    assert demand.take_up("starter", "w2", seen=0)
    assert redis_client.hkeys(keys.LOADABLE + "starter") == ["w2"]


async def test_a_forgotten_model_leaves_nothing(
    store: JobStore, ownership: Ownership, card: ModelCard, redis_client: redis.Redis
) -> None:
    ownership.announce(card, "w1", ready_in=1.0)
    redis_client.zadd(keys.ALIVE + "starter", {"w1": 5_000})
    assert (await store.models.forget("starter")) == ("forgotten", 0)
    assert redis_client.keys("*starter*") == []
