"""What a running job can go on from lies beside its record: for its owner to write, for the next one to find, and gone
with the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

import pytest
import redis

from app.contract.messages.job import JobError, new_token
from app.contract.objects.names import parse_key, require_prefix, require_snapshot, snapshot_key, snapshots_prefix
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.snapshots import KeptSnapshot, SnapshotRecords
from app.contract.redis.store import JobStore, NewJob
from tests.forgetful import Losses

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
DATA = bytes(range(256)) * 9
"""No text in any encoding."""


@pytest.fixture(params=[0, inf], ids=["answered", "answers lost"])
def records(request: pytest.FixtureRequest, redis_client: redis.Redis, valkey_url: str) -> Iterator[SnapshotRecords]:
    client = Losses(request.param).client(valkey_url)
    yield SnapshotRecords(client)
    client.close()


async def claimed(store: JobStore, ownership: Ownership, job: NewJob) -> Claim:
    await store.submit(job, queue_limit=10, tenant_limit=10)
    return again(ownership)


def again(ownership: Ownership) -> Claim:
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    return claim


def started(redis_client: redis.Redis, job_id: str) -> list[str]:
    told = redis_client.xrange(keys.EVENTS + job_id)
    return [fields["data"] for _, fields in told if fields["event"] == "job.started"]


@pytest.mark.parametrize("in_store", [False, True])
async def test_the_next_attempt_finds_the_newest(
    store: JobStore,
    ownership: Ownership,
    new_job: NewJobs,
    records: SnapshotRecords,
    redis_client: redis.Redis,
    lease_runs_out: Callable[[str], None],
    in_store: bool,
) -> None:
    claim = await claimed(store, ownership, new_job())
    assert records.find(claim) is None
    key = snapshot_key(claim.id, claim.token, 1) if in_store else None
    assert records.keep(claim, KeptSnapshot.of(3, b"older"))
    assert records.keep(claim, KeptSnapshot.of(7, DATA, key=key))
    ownership.progress(claim, 9, 20)
    lease_runs_out(claim.id)
    await store.reap()
    second = again(ownership)
    found = records.find(second)
    assert found is not None
    assert (found.step, found.reached, found.object) == (7, 9, key)
    assert found.data == (None if in_store else DATA)
    assert found.is_whole(DATA)
    assert not found.is_whole(DATA[1:])
    assert started(redis_client, claim.id) == ['{"attempts":1}', '{"attempts":2,"resumed_at_step":7}']
    record = await store.get(claim.id, "ann")
    assert record is not None
    assert (record.resumed_at_step, record.step) == (7, 7)


async def test_a_worker_that_hands_back_says_so_first(
    store: JobStore, ownership: Ownership, new_job: NewJobs, records: SnapshotRecords, redis_client: redis.Redis
) -> None:
    claim = await claimed(store, ownership, new_job())
    assert records.keep(claim, KeptSnapshot.of(4, DATA))
    assert ownership.give_back(claim, "worker-stopped")
    assert not records.keep(claim, KeptSnapshot.of(5, DATA)), "it is no longer ours"
    again(ownership)
    assert started(redis_client, claim.id)[1] == '{"attempts":2,"resumed_at_step":4}'


async def test_what_a_lost_owner_says_changes_nothing(
    store: JobStore,
    ownership: Ownership,
    new_job: NewJobs,
    records: SnapshotRecords,
    lease_runs_out: Callable[[str], None],
) -> None:
    first = await claimed(store, ownership, new_job())
    lease_runs_out(first.id)
    await store.reap()
    second = again(ownership)
    assert not records.announce(first)
    assert not records.keep(first, KeptSnapshot.of(9, b"of a zombie"))
    assert records.find(second) is None
    assert await store.leftovers.snapshots() == []


async def test_a_suspect_starts_over(
    store: JobStore,
    ownership: Ownership,
    new_job: NewJobs,
    records: SnapshotRecords,
    redis_client: redis.Redis,
    lease_runs_out: Callable[[str], None],
) -> None:
    """The snapshot may be what kills."""
    claim = await claimed(store, ownership, new_job())
    for _ in range(keys.SUSPECT_AFTER):
        assert records.keep(claim, KeptSnapshot.of(4, DATA))
        lease_runs_out(claim.id)
        await store.reap()
        claim = again(ownership)
    assert claim.runs_alone
    assert records.find(claim) is None
    assert started(redis_client, claim.id)[-1] == '{"attempts":3}'
    record = await store.get(claim.id, "ann")
    assert record is not None
    assert (record.resumed_at_step, record.step) == (0, 0)


@pytest.mark.parametrize("end", ["succeeded", "failed", "canceled", "canceled while it waited"])
async def test_it_goes_with_the_job(
    store: JobStore,
    ownership: Ownership,
    new_job: NewJobs,
    records: SnapshotRecords,
    redis_client: redis.Redis,
    end: str,
) -> None:
    claim = await claimed(store, ownership, new_job())
    assert records.announce(claim)
    assert records.keep(claim, KeptSnapshot.of(4, DATA, key=snapshot_key(claim.id, claim.token, 0)))
    assert redis_client.pttl(keys.SNAPSHOT + claim.id) > 0
    if end == "succeeded":
        assert ownership.succeed(claim, [], timings={}, warnings=[], steps=20)
    elif end == "failed":
        assert ownership.fail(claim, JobError(slug="generation-failed", detail="no"))
    elif end == "canceled":
        assert ownership.canceled(claim)
    else:
        assert ownership.give_back(claim, "worker-stopped")
        assert await store.cancel(claim.id, "ann") == "canceled"
    assert not redis_client.exists(keys.SNAPSHOT + claim.id)
    due = redis_client.zscore(keys.SNAPSHOT_OBJECTS, f"{claim.id}/{claim.token}")
    assert due is not None, "its object has a time to go, in any case"
    seconds, _ = redis_client.time()
    soon = due - seconds * 1000 <= keys.ORPHAN_MS + 1000
    assert soon == (end != "canceled while it waited")


async def test_objects_that_are_due_are_named_until_they_are_removed(
    store: JobStore, ownership: Ownership, new_job: NewJobs, records: SnapshotRecords, redis_client: redis.Redis
) -> None:
    claim = await claimed(store, ownership, new_job())
    assert records.announce(claim)
    assert await store.leftovers.snapshots() == []
    redis_client.zadd(keys.SNAPSHOT_OBJECTS, {f"{claim.id}/{claim.token}": 1})
    [due] = await store.leftovers.snapshots()
    assert due == f"{claim.id}/{claim.token}"
    await store.leftovers.snapshots_removed(due)
    assert await store.leftovers.snapshots() == []


def test_no_link_leads_to_one() -> None:
    job_id, token = "job_" + "0" * 24, new_token()
    key = snapshot_key(job_id, token, 1)
    assert key.startswith(snapshots_prefix(job_id, token))
    for refusing in (parse_key, require_prefix):
        with pytest.raises(ValueError, match="not a"):
            refusing(key)
    for other in (f"../{key}", key.replace("/1.", "/2."), key.replace("snapshots", "images"), f"{key}\n"):
        with pytest.raises(ValueError, match="not a snapshot"):
            require_snapshot(other)
