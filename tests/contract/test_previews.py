"""Previews over a real Valkey: the newest of each picture, for a moment, and only from whoever owns the job."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from app.contract.messages.card import ModelCard
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.spec import JobSpec
from app.contract.redis import keys
from app.contract.redis.ownership import Claim, Ownership
from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio


@pytest.fixture
async def claim(store: JobStore, ownership: Ownership, new_job: Callable[..., NewJob]) -> Claim:
    await store.submit(new_job(), queue_limit=10, tenant_limit=10)
    claimed = ownership.claim("starter", "w1")
    assert claimed is not None
    return claimed


async def told(store: JobStore, claim: Claim) -> list[dict[str, int]]:
    events = await store.next_events(claim.id, "0", wait_seconds=0.01)
    return [data for _, name, data in events if name == "job.preview"]


async def test_the_newest_preview_of_each_picture(store: JobStore, ownership: Ownership, claim: Claim) -> None:
    assert ownership.preview(claim, 0, 5, 20, "Zm9v")
    assert ownership.preview(claim, 1, 5, 20, "YmFy")
    assert ownership.preview(claim, 0, 10, 20, "YmF6")
    first, second, third = await told(store, claim)
    assert third == {"index": 0, "step": 10, "steps": 20}
    assert [await store.preview(claim.id, each) for each in (first, second, third)] == [None, "YmFy", "YmF6"]


async def test_a_preview_goes_by_itself(ownership: Ownership, claim: Claim, redis_client: redis.Redis) -> None:
    ownership.preview(claim, 0, 5, 20, "Zm9v")
    assert 0 < redis_client.pttl(f"{keys.PREVIEW}{claim.id}:0") <= keys.PREVIEW_MS


async def test_the_stream_holds_no_pixels(ownership: Ownership, claim: Claim, redis_client: redis.Redis) -> None:
    """It is kept for as long as the job."""
    ownership.preview(claim, 0, 5, 20, "A" * keys.MAX_PREVIEW)
    assert max(len(fields["data"]) for _, fields in redis_client.xrange(keys.EVENTS + claim.id)) < 100


async def test_a_preview_that_is_too_large_is_left_out(store: JobStore, ownership: Ownership, claim: Claim) -> None:
    assert ownership.preview(claim, 0, 5, 20, "A" * (keys.MAX_PREVIEW + 1))
    assert await told(store, claim) == []
    assert await store.preview(claim.id, {"index": 0, "step": 5}) is None


async def test_a_zombie_shows_nothing(
    store: JobStore, ownership: Ownership, claim: Claim, lease_runs_out: Callable[[str], None]
) -> None:
    lease_runs_out(claim.id)
    await store.reap()
    assert not ownership.preview(claim, 0, 5, 20, "Zm9v")
    assert await told(store, claim) == []


async def test_requests_for_previews_and_reproducibility(card: ModelCard) -> None:
    plain = resolve(JobRequest(prompt="a circle"), card)
    assert (plain.preview_every, plain.reproducible) == (0, False)
    wanted = resolve(JobRequest(prompt="a circle", preview_every=5, reproducible=True), card)
    assert (wanted.preview_every, wanted.reproducible) == (5, True)
    older = JobSpec.model_validate(plain.model_dump(exclude={"preview_every", "reproducible"}))
    assert older == plain, "a record from before there were such parameters"
