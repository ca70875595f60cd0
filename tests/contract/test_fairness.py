"""Whose turn it is: fair between tenants, in order within one, and RQ's list holds exactly the ids that wait."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.job import cost_of, new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio

LIST = "rq:queue:generate-starter"
Parameters = Callable[..., NewJob]


@pytest.fixture
def parameters(card: ModelCard) -> Parameters:
    def make(tenant: str, **options: object) -> NewJob:
        request = JobRequest.model_validate({"prompt": "a circle", "seed": 7} | options)
        return NewJob(new_job_id(), tenant, resolve(request, card), retention_ms=60_000, metadata={})

    return make


async def submit(store: JobStore, job: NewJob) -> str:
    assert (await store.submit(job, queue_limit=5_000, tenant_limit=5_000)).outcome == "created"
    return job.id


def claim(ownership: Ownership) -> Claim:
    claimed = ownership.claim("starter", "w1")
    assert claimed is not None
    return claimed


async def test_a_thousand_jobs_of_one_tenant_do_not_delay_another(
    store: JobStore, ownership: Ownership, parameters: Parameters
) -> None:
    whale = [await submit(store, parameters("whale")) for _ in range(1_000)]
    seats = [claim(ownership).id for _ in range(4)]
    assert seats == whale[:4]
    single = parameters("ann")
    await submit(store, single)
    record = await store.get(single.id, "ann")
    assert record is not None
    assert await store.position(record) == 0, "what the job says of its place is what happens"
    assert claim(ownership).id == single.id
    assert [claim(ownership).id for _ in range(3)] == whale[4:7], "and within a tenant the order stays"


async def test_tenants_share_by_cost_and_not_by_number(
    store: JobStore, ownership: Ownership, parameters: Parameters
) -> None:
    for _ in range(40):
        await submit(store, parameters("dear", num_images=4))
    for _ in range(160):
        await submit(store, parameters("cheap"))
    served: Counter[str] = Counter()
    for _ in range(100):
        found = claim(ownership)
        served["dear" if found.spec.num_images == 4 else "cheap"] += cost_of(found.spec)  # type: ignore[assignment]
    most, least = max(served.values()), min(served.values())
    assert most - least <= 2 * cost_of(parameters("dear", num_images=4).spec)


async def test_ten_tenants_take_turns(store: JobStore, ownership: Ownership, parameters: Parameters) -> None:
    owner = {await submit(store, parameters(f"t{n % 10}")): f"t{n % 10}" for n in range(100)}
    for _ in range(10):
        assert len({owner[claim(ownership).id] for _ in range(10)}) == 10


async def test_an_idle_tenant_saves_up_no_turns(store: JobStore, ownership: Ownership, parameters: Parameters) -> None:
    owner = {await submit(store, parameters("busy")): "busy" for _ in range(60)}
    for _ in range(20):
        claim(ownership)
    owner |= {await submit(store, parameters("late")): "late" for _ in range(40)}
    turns = Counter(owner[claim(ownership).id] for _ in range(40))
    assert abs(turns["busy"] - turns["late"]) <= 2


async def test_a_canceled_job_is_not_charged(store: JobStore, ownership: Ownership, parameters: Parameters) -> None:
    owner = {await submit(store, parameters("busy")): "busy" for _ in range(30)}
    claim(ownership)
    mistaken = [await submit(store, parameters("ann")) for _ in range(20)]
    for job_id in mistaken:
        assert await store.cancel(job_id, "ann") == "canceled"
    owner[await submit(store, parameters("ann"))] = "ann"
    assert "ann" in [owner[claim(ownership).id] for _ in range(2)]


async def test_a_job_that_comes_back_is_first_and_not_charged_again(
    store: JobStore, ownership: Ownership, parameters: Parameters
) -> None:
    owner = {await submit(store, parameters(tenant)): tenant for tenant in ("ann", "bob") * 10}
    first = claim(ownership)
    assert ownership.give_back(first, "worker-stopped")
    assert claim(ownership).id == first.id
    turns = Counter(owner[claim(ownership).id] for _ in range(11))
    assert abs(turns["ann"] - turns["bob"]) <= 1


async def test_a_queue_that_runs_empty_leaves_no_keys(
    store: JobStore, ownership: Ownership, parameters: Parameters, redis_client: redis.Redis
) -> None:
    for tenant in ("ann", "bob"):
        await submit(store, parameters(tenant))
    for _ in range(2):
        claim(ownership)
    left = [f"{name}starter" for name in (keys.QUEUED, keys.TURNS, keys.CLOCK)]
    assert redis_client.exists(LIST, *left) == 0


async def test_rqs_list_holds_exactly_what_waits(
    store: JobStore, ownership: Ownership, parameters: Parameters, redis_client: redis.Redis
) -> None:
    """Taken from its middle, its end and its head, and put back: the places stay right, or LREM would hide it."""
    chance = random.Random(5)
    running: list[Claim] = []
    redis_client.config_resetstat()
    for _ in range(600):
        action = chance.random()
        if action < 0.5:
            await submit(store, parameters(f"t{chance.randrange(6)}", num_images=chance.choice([1, 4])))
        elif action < 0.7 and (claimed := ownership.claim("starter", "w1")):
            running.append(claimed)
        elif action < 0.8 and running:
            ownership.give_back(running.pop(chance.randrange(len(running))), "worker-stopped")
        elif waiting := redis_client.zrange(f"{keys.QUEUED}starter", 0, -1):
            job_id = chance.choice(waiting)
            await store.cancel(job_id, redis_client.hget(keys.JOB + job_id, "tenant"))  # type: ignore[arg-type]
        assert sorted(redis_client.lrange(LIST, 0, -1)) == sorted(redis_client.zrange(f"{keys.QUEUED}starter", 0, -1))
    assert "cmdstat_lrem" not in redis_client.info("commandstats"), "a place was wrong"


async def test_a_list_that_a_foreign_hand_moved_is_numbered_again(
    store: JobStore, ownership: Ownership, parameters: Parameters, redis_client: redis.Redis
) -> None:
    jobs = [await submit(store, parameters("ann")) for _ in range(6)]
    redis_client.lpop(LIST)
    redis_client.rpush(LIST, "job_000000000000000000000000", jobs[5])
    assert claim(ownership).id == jobs[0]
    assert await store.reap() == (0, 0, 0, 0)
    assert redis_client.lrange(LIST, 0, -1) == jobs[1:]
    redis_client.config_resetstat()
    assert [claim(ownership).id for _ in range(5)] == jobs[1:]
    assert "cmdstat_lrem" not in redis_client.info("commandstats")


async def test_an_old_worker_passes_over_what_it_does_not_understand(
    store: JobStore, ownership: Ownership, parameters: Parameters, redis_client: redis.Redis
) -> None:
    new, old = [await submit(store, parameters("ann")) for _ in range(2)]
    redis_client.hset(keys.JOB + new, "v", keys.RECORD_VERSION + 1)
    assert claim(ownership).id == old
    assert ownership.claim("starter", "w1") is None
    assert redis_client.lrange(LIST, 0, -1) == [new]
