"""Who waits for which job, as Redis keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio

from app.contract.redis import keys
from app.contract.redis.pending_requests import PendingRequests

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pending(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[PendingRequests]:
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield PendingRequests(client)


async def test_a_job_that_somebody_waits_for_is_for_those_who_say_that_they_tried_before(
    pending: PendingRequests,
) -> None:
    await pending.wait("name", "job", "first")
    assert await pending.join("name", "equal", again=False) is None
    assert await pending.join("another name", "other", again=True) is None
    assert await pending.join("name", "retry", again=True) == "job"


async def test_a_job_that_was_left_is_for_one_only(pending: PendingRequests) -> None:
    await pending.wait("name", "job", "first")
    await pending.leave("name", "job", "first")
    assert [await pending.join("name", waiter, again=False) for waiter in ("second", "third")] == ["job", None]


async def test_who_was_left_for_longest_is_joined_first(pending: PendingRequests, redis_client: redis.Redis) -> None:
    await pending.wait("name", "lives", "first")
    redis_client.hset(f"{keys.PENDING}name", mapping={"silent": "9 its-gateway-died", "older": "8 its-gateway-died"})
    joined = [await pending.join("name", waiter, again=False) for waiter in ("a", "b", "c")]
    assert joined == ["older", "silent", None]


async def test_the_word_of_one_who_was_followed_does_not_count(pending: PendingRequests) -> None:
    """A first try that the gateway still takes for alive, and the retry that joined its job."""
    await pending.wait("name", "job", "first")
    assert await pending.join("name", "retry", again=True) == "job"
    await pending.leave("name", "job", "first")
    assert await pending.join("name", "equal", again=False) is None
    assert not await pending.give_up("name", "job", "first")
    await pending.wait("name", "job", "first")
    await pending.leave("name", "job", "retry")
    assert await pending.join("name", "equal", again=False) == "job"


async def test_who_gives_up_leaves_nothing(pending: PendingRequests, redis_client: redis.Redis) -> None:
    await pending.wait("name", "job", "first")
    assert await pending.give_up("name", "job", "first")
    assert await pending.join("name", "equal", again=True) is None
    assert not redis_client.exists(f"{keys.PENDING}name")


async def test_it_is_forgotten(pending: PendingRequests, redis_client: redis.Redis) -> None:
    await pending.wait("name", "job", "first")
    assert 0 < redis_client.ttl(f"{keys.PENDING}name") <= keys.PENDING_SECONDS
    await pending.answered("name", "job")
    assert await pending.join("name", "equal", again=True) is None
