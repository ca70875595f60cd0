"""Both halves of the contract over one Valkey, and a Redis clock that a test can turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from math import inf

import pytest
import redis
import redis.asyncio

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, Webhook, resolve
from app.contract.redis import keys
from app.contract.redis.overview import Overview
from app.contract.redis.ownership import Ownership
from app.contract.redis.store import JobStore, NewJob
from tests.forgetful import Losses


@pytest.fixture
async def store(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[JobStore]:
    client = redis.asyncio.Redis.from_url(valkey_url, decode_responses=True)
    yield JobStore(client)
    await client.aclose()


@pytest.fixture
async def overview(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[Overview]:
    client = redis.asyncio.Redis.from_url(valkey_url, decode_responses=True)
    yield Overview(client)
    await client.aclose()


@pytest.fixture
def ownership(redis_client: redis.Redis) -> Ownership:
    return Ownership(redis_client)


@pytest.fixture
async def forgetful(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """redis-py says each script a second time, because the first answer was lost."""
    client = Losses(inf).async_client(valkey_url)
    yield client
    await client.aclose()


@pytest.fixture
def forgetful_worker(redis_client: redis.Redis, valkey_url: str) -> Iterator[redis.Redis]:
    """The same for a worker, which does not use asyncio."""
    client = Losses(inf).client(valkey_url)
    yield client
    client.close()


@pytest.fixture
def new_job(card: ModelCard) -> Callable[..., NewJob]:
    def make(prompt: str = "a red circle", *, tenant: str = "ann", webhook: Webhook | None = None) -> NewJob:
        spec = resolve(JobRequest(prompt=prompt, seed=7), card)
        return NewJob(new_job_id(), tenant, spec, retention_ms=60_000, metadata={"order": "17"}, webhook=webhook)

    return make


@pytest.fixture
def lease_runs_out(redis_client: redis.Redis) -> Callable[[str], None]:
    """The owner of a job falls silent for longer than its lease: its end is moved into the past."""

    def run_out(job_id: str) -> None:
        assert redis_client.zadd(keys.LEASES, {job_id: 1}, xx=True, ch=True) == 1

    return run_out
