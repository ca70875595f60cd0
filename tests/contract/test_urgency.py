"""Which of a tenant's jobs takes its turn: deadlines, then interactive ones, then batch; and what nobody gains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import redis
import redis.asyncio
from pydantic import ValidationError

from app.contract.messages.card import ModelCard
from app.contract.messages.job import JobError, cost_of, new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.queue_stats import LOOKED_AT, QueueStats
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio

DEAR = {"num_images": 4, "num_inference_steps": 100}
NO_LIMITS = {"queue_limit": 5_000, "tenant_limit": 5_000}


@pytest.fixture
def new(card: ModelCard) -> Callable[..., NewJob]:
    def make(tenant: str = "ann", **options: object) -> NewJob:
        request = JobRequest.model_validate({"prompt": "a circle", "seed": 7} | options)
        spec = resolve(request, card)
        return NewJob(new_job_id(), tenant, spec, retention_ms=60_000, metadata={}, urgency=request.urgency)

    return make


async def accepted(store: JobStore, *jobs: NewJob) -> list[str]:
    for job in jobs:
        assert (await store.submit(job, **NO_LIMITS)).outcome == "created"
    return [job.id for job in jobs]


def claim(ownership: Ownership) -> Claim:
    claimed = ownership.claim("starter", "w1")
    assert claimed is not None
    return claimed


async def test_the_earliest_deadline_goes_first_then_interactive_then_batch(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    batch, plain, late, soon = await accepted(
        store, new(priority="batch"), new(), new(deadline=9_000), new(deadline=8_000)
    )
    expected = [soon, late, plain, batch]
    records = [await store.get(job_id, "ann") for job_id in expected]
    assert [record and record.position for record in records] == [0, 1, 2, 3], "each place is what happens"
    claims = [claim(ownership) for _ in range(4)]
    assert [each.id for each in claims] == expected
    assert [each.urgency.deadline_ms for each in claims] == [8_000_000, 9_000_000, None, None]
    assert [each.urgency.priority for each in claims] == ["interactive"] * 3 + ["batch"]


async def test_what_can_wait_waits_for_four_times_what_it_costs(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    """Whoever's interactive jobs come, and however many."""
    batch = await accepted(store, *(new(priority="batch", num_images=images) for images in (1, 2, 1)))
    turns: list[str] = []
    while len(turns) < 24:
        await accepted(store, new(deadline=9_000), new("bob"))
        turns.append(claim(ownership).id)
    assert [turns.index(job_id) for job_id in batch] == [4, 13, 18]


async def test_a_job_without_a_deadline_has_every_eighth_turn_of_its_tenant(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    plain = await accepted(store, *(new() for _ in range(3)))
    turns: list[str] = []
    while len(turns) < 24:
        await accepted(store, *(new(deadline=9_000 - k) for k in range(2)))
        turns.append(claim(ownership).id)
    assert [turns.index(job_id) for job_id in plain] == [7, 15, 23]


async def test_a_deadline_that_cannot_be_met_gives_way_and_is_drawn(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    job = new()
    redis_client.hset(keys.PACE + "starter", "unit_ms", str(10_000 / job.cost))
    batch, hopeless, feasible, longer = await accepted(
        store, new(priority="batch"), new(deadline=1), new(deadline=7_200), new(deadline=9_000)
    )
    assert [claim(ownership).id for _ in range(4)] == [feasible, longer, hopeless, batch]


async def test_the_pace_is_of_interactive_jobs_where_there_are_any(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    """Of a service with batch jobs alone it is of these: of all, and not of the first one for ever."""
    paces: list[float] = []
    jobs = [("batch", 1_000), ("batch", 10), ("interactive", 20), ("interactive", 10), ("batch", 900)]
    for priority, seconds in jobs:
        await accepted(store, new(priority=priority))
        claimed = claim(ownership)
        redis_client.hincrby(keys.JOB + claimed.id, "claimed_ms", -1_000 * seconds)
        assert ownership.succeed(claimed, [], timings={}, warnings=[], steps=20)
        paces.append(float(redis_client.hget(keys.PACE + "starter", "job_ms") or 0) / 1_000)
    # What a test takes itself is no part of it: the clock of Redis goes on.
    assert [round(pace / 10) for pace in paces] == [100, 80, 2, 2, 2]


async def test_nobody_gains_by_deadlines_of_his_own(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    await accepted(store, *(new("hasty", deadline=100 + k) for k in range(60)))
    await accepted(store, *(new("ann") for _ in range(60)))
    shares = Counter(claim(ownership).tenant for _ in range(40))
    assert abs(shares["hasty"] - shares["ann"]) <= 1


async def test_dear_jobs_that_overtake_cheap_ones_of_their_tenant_pay_for_themselves(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    """They do not take the turns that the cheap ones have waited for at the price of those."""
    await accepted(store, *(new("sly") for _ in range(40)))
    await accepted(store, *(new("sly", deadline=9_000, num_images=4) for _ in range(20)))
    await accepted(store, *(new("ann", num_images=4) for _ in range(40)))
    served: Counter[str] = Counter()
    for _ in range(24):
        found = claim(ownership)
        served[found.tenant] += cost_of(found.spec)  # type: ignore[assignment]
    assert abs(served["sly"] - served["ann"]) <= 2 * new(num_images=4).cost


async def test_batch_jobs_get_a_fifth_beside_another_tenants_interactive_ones(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    await accepted(store, *(new("ann", priority="batch") for _ in range(40)))
    await accepted(store, *(new("bob") for _ in range(100)))
    shares = Counter(claim(ownership).tenant for _ in range(50))
    assert shares["ann"] == pytest.approx(10, abs=1)


async def test_a_tenants_batch_jobs_do_not_delay_its_interactive_ones(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    """Each kind has turns of its own: who was served much while nobody else was there is not behind afterwards."""
    await accepted(store, *(new("ann", priority="batch", num_images=4) for _ in range(4)))
    for _ in range(3):
        claim(ownership)
    await accepted(store, *(new(tenant) for tenant in ("ann", "bob") * 10))
    shares = Counter(claim(ownership).tenant for _ in range(10))
    assert shares["ann"] == shares["bob"] == 5


async def test_who_comes_with_batch_jobs_later_makes_up_for_nothing(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    """Their virtual time goes on with the turns of batch jobs, wherever that of interactive ones is."""
    await accepted(store, *(new() for _ in range(8)), *(new(priority="batch") for _ in range(4)))
    for _ in range(11):
        claim(ownership)
    await accepted(store, *(new("bob", priority="batch") for _ in range(2)))
    assert [claim(ownership).tenant for _ in range(3)] == ["bob", "ann", "bob"]


async def test_batch_jobs_are_fair_between_tenants(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    await accepted(store, *(new("whale", priority="batch") for _ in range(100)))
    await accepted(store, *(new("ann", priority="batch") for _ in range(10)))
    shares = Counter(claim(ownership).tenant for _ in range(20))
    assert abs(shares["whale"] - shares["ann"]) <= 1


async def test_a_batch_job_that_is_canceled_gives_back_what_it_was_charged(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    jobs = await accepted(store, *(new(priority="batch") for _ in range(3)))
    turns = keys.TURNS + "batch:starter"
    assert redis_client.zscore(turns, "ann") == pytest.approx(3 * new().cost)
    assert await store.cancel(jobs[0], "ann") == "canceled"
    assert redis_client.zscore(turns, "ann") == pytest.approx(2 * new().cost)


async def test_a_worker_without_a_seat_leaves_batch_jobs_to_others(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    [batch] = await accepted(store, new(priority="batch"))
    assert ownership.claim("starter", "w1", interactive_only=True) is None
    [urgent] = await accepted(store, new(deadline=9_000))
    found = ownership.claim("starter", "w1", interactive_only=True)
    assert found is not None
    assert found.id == urgent
    assert ownership.claim("starter", "w1", interactive_only=True) is None
    assert claim(ownership).id == batch


async def test_a_worker_without_a_seat_reads_no_batch_jobs_that_came_back(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    """Each full worker asks once a second, and after a restart of them all there may be a hundred. The interactive one
    is found behind them."""
    await accepted(store, *(new(priority="batch") for _ in range(20)))
    for each in [claim(ownership) for _ in range(20)]:
        assert ownership.give_back(each, "worker-stopped")
    [urgent] = await accepted(store, new())
    redis_client.config_resetstat()
    found = ownership.claim("starter", "full", holding=4, interactive_only=True)
    assert found is not None
    assert found.id == urgent
    assert redis_client.info("commandstats")["cmdstat_hmget"]["calls"] < 10


@pytest.mark.usefixtures("patient_words")
async def test_word_of_an_interactive_job_reaches_a_worker_that_would_make_a_seat(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    """Where nobody has a free one."""
    assert ownership.claim("starter", "full", holding=2, interactive_only=True) is None
    await accepted(store, new(priority="batch"))
    assert ownership.hear("full", seconds=0.01) is None
    await accepted(store, new())
    assert ownership.hear("full", seconds=0.01) == "starter"
    assert ownership.claim("starter", "full", holding=2, interactive_only=True)
    assert ownership.claim("starter", "full", holding=2, interactive_only=True) is None
    assert claim(ownership).urgency.priority == "batch"
    assert ownership.claim("starter", "idle") is None
    await accepted(store, new())
    assert ownership.hear("full", seconds=0.01) is None, "somebody has a free one"
    assert ownership.hear("idle", seconds=0.01) == "starter"


@pytest.mark.usefixtures("patient_words")
async def test_a_worker_that_has_no_seat_any_more_is_not_told_of_batch_jobs(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    """It would not take one, and nobody else would hear of it."""
    assert ownership.claim("starter", "idle", holding=1) is None
    assert ownership.claim("starter", "full", holding=0) is None
    assert ownership.claim("starter", "full", holding=2, interactive_only=True) is None
    await accepted(store, new(priority="batch"))
    assert ownership.hear("full", seconds=0.01) is None
    assert ownership.hear("idle", seconds=0.01) == "starter"


async def test_jobs_that_an_earlier_version_queued_keep_their_turns(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    """They have a tag and no standing."""
    old = await accepted(store, *(new("old") for _ in range(4)))
    for job_id in old:
        redis_client.hdel(keys.JOB + job_id, "standing")
    redis_client.delete(keys.STANDING + "starter", keys.NEXT_TURN + "starter")
    fresh = await accepted(store, *(new("ann") for _ in range(4)))
    claimed = [claim(ownership).id for _ in range(8)]
    assert [job_id for job_id in claimed if job_id in old] == old
    assert [job_id for job_id in claimed if job_id in fresh] == fresh
    assert {*claimed[:4]} & {*old}, "neither waits for all of the others"
    assert {*claimed[:4]} & {*fresh}


async def test_jobs_that_an_earlier_version_claimed_are_not_claimed_again(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    """It takes ids off the queue and knows no standing; and what it leaves behind does not outlast the queue."""
    taken, left = await accepted(store, new(), new())
    redis_client.zrem(keys.QUEUED + "starter", taken)
    redis_client.hset(keys.JOB + taken, "status", "running")
    assert claim(ownership).id == left
    assert ownership.claim("starter", "w1") is None
    redis_client.zadd(keys.NEXT_TURN + "starter", {"ann": 1e6})
    again, bobs = await accepted(store, new(), new("bob"))
    assert [claim(ownership).id for _ in range(2)] == [again, bobs]


async def test_a_job_that_an_earlier_version_claimed_and_gave_back_is_claimed_first(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    """Its claim leaves the standing in the record, where this one's takes it out."""
    back, other = await accepted(store, new(), new())
    standing = redis_client.hget(keys.JOB + back, "standing")
    assert ownership.give_back(claim(ownership), "worker-stopped")
    redis_client.hset(keys.JOB + back, "standing", str(standing))
    assert [claim(ownership).id for _ in range(2)] == [back, other]


async def test_what_comes_back_has_no_standing_whoever_claimed_it(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    (back,) = await accepted(store, new())
    claimed = claim(ownership)
    redis_client.hset(keys.JOB + back, "standing", "as an earlier version leaves it")
    assert ownership.give_back(claimed, "worker-stopped")
    assert not redis_client.hexists(keys.JOB + back, "standing")


async def test_deadlines_of_one_tenant_do_not_starve_what_an_earlier_version_queued_for_another(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    """The job that they overtake keeps its tag, and stays the first of the queue for as long."""
    await accepted(store, new("ann"))
    (old,) = await accepted(store, new("old"))
    redis_client.zrem(keys.STANDING + "starter", str(redis_client.hget(keys.JOB + old, "standing")))
    redis_client.zrem(keys.NEXT_TURN + "starter", "old")
    redis_client.hdel(keys.JOB + old, "standing")
    claimed = []
    for number in range(4):
        await accepted(store, new("ann", deadline=9_000 - number))
        claimed.append(claim(ownership).id)
    assert old in claimed


async def test_a_retry_is_as_urgent_as_its_job(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob]
) -> None:
    await accepted(store, new(deadline=9_000))
    first = claim(ownership)
    assert ownership.fail(first, JobError(slug="numerical-error", detail="x"))
    again = await store.retry(first.id, "ann", **NO_LIMITS)
    record = await store.get(again.id, "ann")
    assert record is not None
    assert record.due_ms == record.created_ms + 9_000_000


async def test_whether_a_deadline_was_met_is_known_at_the_end(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    met, missed, failed = await accepted(store, new(deadline=9_000), new(deadline=9_001), new(deadline=9_002))
    claims = [claim(ownership) for _ in range(3)]
    record = await store.get(met, "ann")
    assert record is not None
    assert record.deadline_met is None, "nobody can say it yet"
    for each in claims[:2]:
        assert ownership.succeed(each, [], timings={}, warnings=[], steps=20)
    redis_client.hset(keys.JOB + missed, "ended_ms", str(10**15))
    assert ownership.canceled(claims[2])
    ended = [await store.get(job_id, "ann") for job_id in (met, missed, failed)]
    assert [record and record.deadline_met for record in ended] == [True, False, False]


async def test_every_deadline_of_a_job_that_was_not_called_off_is_counted(
    store: JobStore, ownership: Ownership, new: Callable[..., NewJob], redis_client: redis.Redis
) -> None:
    """Also of one that never ended by its worker's word."""
    _, _, dead, stopped, waits = await accepted(store, *(new(deadline=9_000 + n) for n in range(5)))
    met, failed, _, runs = [claim(ownership) for _ in range(4)]
    redis_client.hset(keys.JOB + dead, "failures", keys.MAX_ATTEMPTS - 1)
    redis_client.zadd(keys.LEASES, {dead: 1})
    assert await store.reap() == (0, 1, 0, 1)
    assert ownership.succeed(met, [], timings={}, warnings=[], steps=20)
    assert ownership.fail(failed, JobError(slug="numerical-error", detail="x"))
    assert ownership.canceled(runs)
    assert await store.cancel(waits, "ann") == "canceled"
    assert runs.id == stopped
    assert redis_client.hgetall(keys.DEADLINES + "starter") == {"met": "1", "missed": "2"}


@pytest.mark.parametrize("wrong", [{"deadline": 0}, {"deadline": 86_401}, {"priority": "urgent"}])
def test_what_is_no_deadline_and_no_priority_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JobRequest.model_validate({"prompt": "a circle"} | wrong)


def test_a_batch_job_has_no_deadline() -> None:
    with pytest.raises(ValidationError, match="what can wait has no deadline") as refused:
        JobRequest.model_validate({"prompt": "a circle", "priority": "batch", "deadline": 5})
    assert refused.value.errors()[0]["loc"] == ("deadline",)


@pytest.mark.parametrize(
    ("waiting", "others"),
    [
        ({}, {"deadline": 9_000}),
        ({"deadline": 9_000}, {"deadline": 8_000}),
        (DEAR, {"tenant": "bob", "num_inference_steps": 1}),
        (DEAR | {"priority": "batch"}, {"tenant": "bob", "num_inference_steps": 1, "priority": "batch"}),
    ],
    ids=["without a deadline", "with the latest deadline", "dear", "dear batch"],
)
async def test_who_is_passed_over_by_a_hundred_is_seen_to_wait(
    store: JobStore,
    ownership: Ownership,
    new: Callable[..., NewJob],
    redis_client: redis.Redis,
    valkey_url: str,
    waiting: dict[str, object],
    others: dict[str, object],
) -> None:
    """For such jobs there is an alert. Of the jobs in the order of turns they are not among the first."""
    first, last = await accepted(store, new(**waiting), new(**waiting))
    assert claim(ownership).id == first
    await accepted(store, *(new(**others) for _ in range(LOOKED_AT + 1)))
    assert last not in redis_client.zrange(keys.QUEUED + "starter", 0, LOOKED_AT - 1)
    redis_client.hincrby(keys.JOB + last, "created_ms", -3_600_000)
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        found = await QueueStats(client).waiting("starter")
    assert found.oldest_seconds >= 3_600
