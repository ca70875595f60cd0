"""Pictures that came in and the jobs that need them: none goes before its job is over, and none stays for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from math import inf

import pytest
import redis
import redis.asyncio

from app.contract.messages.inputs import InputPicture
from app.contract.messages.job import JobError
from app.contract.redis import keys
from app.contract.redis.inputs import InputsFull, InputStore, Orphan, StoredInput
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore, NewJob
from tests.forgetful import Losses

pytestmark = pytest.mark.anyio

NewJobs = Callable[..., NewJob]
LIMITS = {"queue_limit": 100, "tenant_limit": 100}
SHA = "a" * 64
ORPHAN = Orphan.of("ann", SHA)
FACTS: dict[str, str | int] = {"bytes": 9, "width": 64, "height": 48, "content_type": "image/png"}


@pytest.fixture
async def inputs(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[InputStore]:
    client = redis.asyncio.Redis.from_url(valkey_url, decode_responses=True)
    yield InputStore(client)
    await client.aclose()


async def added(inputs: InputStore, *, retention_ms: int = 60_000) -> StoredInput:
    assert await inputs.begin(ORPHAN, "t1")
    return (await kept(inputs, "t1", retention_ms=retention_ms))[0]


async def kept(inputs: InputStore, token: str, *, retention_ms: int = 60_000) -> tuple[StoredInput, bool]:
    added = await inputs.add(ORPHAN, token, FACTS, retention_ms=retention_ms)
    assert added is not None
    return added


HALF = (keys.INPUT, keys.INPUT_USES, keys.INPUTS_OF, keys.INPUT_EXPIRY, keys.INPUT_ORPHANS)


def drawing_from(job: NewJob) -> NewJob:
    picture = InputPicture(sha256=SHA, width=64, height=48, content_type="image/png")
    return replace(job, spec=job.spec.model_copy(update={"image": picture, "mask_image": picture}))


async def test_every_answer_may_be_lost(redis_client: redis.Redis, valkey_url: str) -> None:
    client = Losses(inf).async_client(valkey_url)
    inputs = InputStore(client)
    assert await inputs.begin(ORPHAN, "t1")
    stored, is_new = await kept(inputs, "t1")
    assert is_new, "it is no repetition to its maker"
    assert await inputs.get(stored.id, "ann") == stored
    assert await inputs.get(stored.id, "bob") is None
    again, is_new = await kept(inputs, "t2")
    assert not is_new
    assert again.created_ms == stored.created_ms
    await inputs.drop(stored)
    assert await inputs.get(stored.id, "ann") is None
    [orphan] = await inputs.orphans()
    assert orphan == ORPHAN
    assert await inputs.may_remove(orphan, "r1")
    await inputs.removed(orphan, "r1")
    assert redis_client.keys("*input*") == []
    await client.aclose()


async def test_a_picture_stays_while_a_job_needs_it(
    inputs: InputStore, store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    stored, job = await added(inputs), drawing_from(new_job())
    assert (await store.submit(job, **LIMITS)).outcome == "created"
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert claim.spec.image == job.spec.image
    redis_client.zadd(keys.INPUT_EXPIRY, {stored.id: 1})
    for _ in range(2):
        assert (await inputs.drop(stored))[0] == "in-use"
        await inputs.drop_expired(stored.id)
        assert await inputs.get(stored.id, "ann") is not None
    assert await inputs.expired() == [], "the sweeper looks at the others meanwhile"
    redis_client.zadd(keys.INPUT_EXPIRY, {stored.id: 1})
    assert ownership.succeed(claim, [], timings={}, warnings=[], steps=20)
    record, after = await store.get(job.id, "ann"), await inputs.get(stored.id, "ann")
    assert record is not None
    assert after is not None
    assert after.expires_ms == record.expires_ms, "it is kept for as long as the job that was drawn from it"
    assert (await inputs.drop(stored.model_copy(update={"tenant": "bob"})))[0] == "missing"
    assert (await inputs.drop(stored))[0] == "dropped"


@pytest.mark.parametrize("end", ["canceled", "failed", "deleted"])
async def test_however_a_job_ends_it_lets_go(
    inputs: InputStore, store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis, end: str
) -> None:
    stored, job = await added(inputs), drawing_from(new_job())
    await store.submit(job, **LIMITS)
    if end == "failed":
        claim = ownership.claim("starter", "w1")
        assert claim is not None
        assert ownership.fail(claim, JobError(slug="internal", detail="no"))
    else:
        await store.cancel(job.id, "ann")
    if end == "deleted":
        await store.forget(job.id)
    assert redis_client.exists(keys.INPUT_USES + stored.id) == 0
    assert (await inputs.drop(stored))[0] == "dropped"


async def test_what_an_earlier_version_ended_is_over(
    inputs: InputStore, store: JobStore, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    """Its scripts know nothing of pictures that came in."""
    stored, job = await added(inputs), drawing_from(new_job())
    await store.submit(job, **LIMITS)
    redis_client.hset(keys.JOB + job.id, "status", "canceled")
    assert (await inputs.drop(stored))[0] == "dropped"


async def test_no_job_comes_in_for_a_picture_that_is_gone(
    inputs: InputStore, store: JobStore, ownership: Ownership, new_job: NewJobs, redis_client: redis.Redis
) -> None:
    job = drawing_from(new_job())
    refused = await store.submit(job, **LIMITS)
    assert (refused.outcome, refused.id) == ("input-gone", ORPHAN.id)
    assert redis_client.keys("darkroom:job:*") == []
    stored = await added(inputs)
    await store.submit(job, **LIMITS)
    claim = ownership.claim("starter", "w1")
    assert claim is not None
    assert ownership.fail(claim, JobError(slug="internal", detail="no"))
    again = await store.retry(job.id, "ann", **LIMITS)
    assert again.outcome == "created"
    assert (await inputs.drop(stored))[0] == "in-use", "the new job needs it too"
    await store.cancel(again.id, "ann")
    assert (await inputs.drop(stored))[0] == "dropped"
    redis_client.hdel(keys.JOB + job.id, "retried_as")
    assert (await store.retry(job.id, "ann", **LIMITS)).outcome == "input-gone"


async def test_a_file_that_somebody_stores_is_nobodys_to_remove(inputs: InputStore, redis_client: redis.Redis) -> None:
    assert await inputs.begin(ORPHAN, "t1")
    assert await inputs.orphans() == [], "its time is not over"
    assert not await inputs.may_remove(ORPHAN, "r1")
    redis_client.delete(keys.INPUT_UPLOADS + ORPHAN.name)
    assert await inputs.may_remove(ORPHAN, "r1")
    assert not await inputs.begin(ORPHAN, "t2"), "it might go with what is removed"
    await inputs.removed(ORPHAN, "r1")
    assert await inputs.begin(ORPHAN, "t2")


async def test_an_upload_whose_picture_went_before_it_was_said_again_begins_again(inputs: InputStore) -> None:
    """The first answer was lost. The object may have gone with the record, which another client has deleted."""
    assert (await inputs.drop(await added(inputs)))[0] == "dropped"
    assert await inputs.add(ORPHAN, "t1", FACTS, retention_ms=60_000) is None
    assert await inputs.get(ORPHAN.id, "ann") is None
    assert await inputs.may_remove(ORPHAN, "r1")
    assert await inputs.add(ORPHAN, "t1", FACTS, retention_ms=60_000) is None


async def test_a_picture_that_was_sent_again_is_not_dropped_with_the_one_before(inputs: InputStore) -> None:
    """The answer to the drop was lost; another client has sent the same picture before it was said again."""
    stored = await added(inputs)
    assert (await inputs.drop(stored))[0] == "dropped"
    assert await inputs.begin(ORPHAN, "t2")
    again, is_new = await kept(inputs, "t2")
    assert is_new
    assert (await inputs.drop(stored))[0] == "missing"
    assert await inputs.get(again.id, "ann") == again
    assert (await inputs.drop(again))[0] == "dropped"


async def test_an_upload_that_took_too_long_owns_nothing(inputs: InputStore, redis_client: redis.Redis) -> None:
    assert await inputs.begin(ORPHAN, "t1")
    redis_client.zadd(keys.INPUT_UPLOADS + ORPHAN.name, {"t1": 1})
    assert await inputs.may_remove(ORPHAN, "r1")
    assert await inputs.add(ORPHAN, "t1", FACTS, retention_ms=60_000) is None


async def test_a_file_is_removed_by_one_at_a_time(inputs: InputStore, redis_client: redis.Redis) -> None:
    """What is stored when the first is done would go with the second's."""
    await inputs.drop(await added(inputs))
    assert await inputs.may_remove(ORPHAN, "r1")
    assert not await inputs.may_remove(ORPHAN, "r2")
    assert await inputs.may_remove(ORPHAN, "r1"), "said again"
    assert await inputs.orphans() == [], "a sweeper looks at the others meanwhile"
    await inputs.removed(ORPHAN, "r1")
    await inputs.drop(await added(inputs))
    assert await inputs.may_remove(ORPHAN, "r2")
    await inputs.removed(ORPHAN, "r1")
    assert not await inputs.begin(ORPHAN, "t2"), "the first's word, said again late, ends no removal of another's"


async def test_a_removal_that_failed_is_anybodys_at_once(inputs: InputStore) -> None:
    await inputs.drop(await added(inputs))
    assert await inputs.may_remove(ORPHAN, "r1")
    await inputs.not_removed(ORPHAN, "r1")
    assert await inputs.orphans() == [ORPHAN]
    assert not await inputs.begin(ORPHAN, "t2"), "it may be on its way still"
    assert await inputs.may_remove(ORPHAN, "r2")
    await inputs.removed(ORPHAN, "r2")
    assert await inputs.begin(ORPHAN, "t2")


async def test_a_list_knows_what_an_earlier_version_dropped(inputs: InputStore, redis_client: redis.Redis) -> None:
    """Its scripts know nothing of the list."""
    stored = await added(inputs)
    assert [each.id for each in await inputs.page("ann", limit=9, before=None)] == [stored.id]
    redis_client.delete(keys.INPUT + stored.id)
    assert await inputs.page("ann", limit=9, before=None) == []
    assert redis_client.keys("darkroom:inputs-of:*") == []


async def upload(inputs: InputStore, number: int, most: int) -> str:
    """A picture of nine bytes. What came of it."""
    orphan = Orphan.of("ann", f"{number:064x}")
    try:
        assert await inputs.begin(orphan, f"t{number}", size=9, most=most)
        await asyncio.sleep(0)
        assert await inputs.add(orphan, f"t{number}", FACTS, retention_ms=60_000, most=most)
    except InputsFull as full:
        return "full" if full.held > most - 9 else f"full with {full.held}"
    return "kept"


async def test_however_many_at_once_a_tenant_has_no_more_bytes_than_it_may(inputs: InputStore) -> None:
    """Also those that had begun while there was room: their objects are nobody's, and go."""
    orphans = [Orphan.of("ann", f"{number:064x}") for number in range(100)]
    for number, orphan in enumerate(orphans):
        assert await inputs.begin(orphan, f"t{number}", size=9, most=95)
    ends = await asyncio.gather(
        *(
            inputs.add(orphan, f"t{number}", FACTS, retention_ms=60_000, most=95)
            for number, orphan in enumerate(orphans)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(each, InputsFull) for each in ends) == 90
    assert await inputs.bytes_of("ann") == 90
    assert len(await inputs.page("ann", limit=100, before=None)) == 10
    assert len(await inputs.orphans()) == 90
    with pytest.raises(InputsFull):
        await inputs.begin(Orphan.of("ann", "b" * 64), "t", size=9, most=95)
    assert await inputs.begin(orphans[0], "again", size=9, most=95), "what it has already takes no more"
    assert await inputs.begin(Orphan.of("bob", SHA), "his", size=9, most=95), "others have room of their own"
    [kept, *_] = await inputs.page("ann", limit=1, before=None)
    assert (await inputs.drop(kept))[0] == "dropped"
    assert [await upload(inputs, number, 95) for number in (200, 201)] == ["kept", "full"]
    assert await upload(inputs, 202, 0) == "kept", "0 is no bound"


async def test_what_versions_without_a_sum_did_is_counted(inputs: InputStore, redis_client: redis.Redis) -> None:
    """They add and drop records, and the sum is what it was."""
    assert [await upload(inputs, number, 0) for number in range(4)] == ["kept"] * 4
    redis_client.delete(keys.INPUT_BYTES)
    assert await inputs.bytes_of("ann") == 36, "whoever asks, be it that nothing has come in since"
    assert [await upload(inputs, number, 45) for number in (4, 5)] == ["kept", "full"]
    for each in await inputs.page("ann", limit=3, before=None):
        redis_client.delete(keys.INPUT + each.id)
        redis_client.zrem(keys.INPUTS_OF + "ann", each.id)
    assert await inputs.bytes_of("ann") == 18
    assert [await upload(inputs, number, 45) for number in (6, 7)] == ["kept"] * 2
    theirs = {"bytes": 9, "tenant": "ann", "sha256": "f" * 64}
    redis_client.hset(keys.INPUT + "in_theirs", mapping=theirs)
    redis_client.zadd(keys.INPUTS_OF + "ann", {"in_theirs": 1})
    assert await upload(inputs, 8, 45) == "full", "what they took in takes room too"
    redis_client.delete(keys.INPUT + "in_theirs")
    for each in await inputs.page("ann", limit=100, before=None):
        assert (await inputs.drop(each))[0] == "dropped"
    assert not redis_client.exists(keys.INPUT_BYTES)


async def test_who_has_no_room_left_does_not_keep_redis_from_others(
    inputs: InputStore, redis_client: redis.Redis
) -> None:
    """The refusal of one upload has not looked at all that came in before: thousands, as often as somebody likes."""
    assert [await upload(inputs, number, 45) for number in range(6)] == ["kept"] * 5 + ["full"]
    redis_client.config_resetstat()
    assert [await upload(inputs, number, 45) for number in range(6, 9)] == ["full"] * 3
    assert redis_client.info("commandstats")["cmdstat_hget"]["calls"] == 3  # type: ignore[index]


async def test_a_drop_that_breaks_half_way_leaves_no_file_behind(
    inputs: InputStore, redis_client: redis.Redis, valkey_url: str
) -> None:
    """Here for a right that is missing. The sweeper finds the file, or the record is there still."""
    stored = await added(inputs)
    redis_client.delete(keys.INPUT_ORPHANS)
    redis_client.acl_setuser("half", enabled=True, nopass=True, categories=["+@all"], keys=["*"])
    redis_client.execute_command("ACL", "SETUSER", "half", "resetkeys", *(f"~{name}*" for name in HALF))
    async with redis.asyncio.Redis.from_url(valkey_url, username="half", password="x", decode_responses=True) as half:
        with pytest.raises(redis.ResponseError):
            await InputStore(half).drop(stored)
    redis_client.acl_deluser("half")
    assert await inputs.get(stored.id, "ann") == stored or await inputs.orphans() == [ORPHAN]


async def test_whose_room_ends_hears_so_however_answers_are_lost(redis_client: redis.Redis, valkey_url: str) -> None:
    client = Losses(inf).async_client(valkey_url)
    inputs = InputStore(client)
    assert [await upload(inputs, number, 20) for number in range(3)] == ["kept", "kept", "full"]
    assert await inputs.bytes_of("ann") == 18
    await client.aclose()
