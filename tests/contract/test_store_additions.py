"""What the gateway asks of the store beside the life of a job."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.contract.redis.store import JobStore, NewJob

pytestmark = pytest.mark.anyio


async def test_nothing_is_missed_after_the_last_event(store: JobStore, new_job: Callable[..., NewJob]) -> None:
    job = new_job()
    assert await store.last_event_id(job.id) == "0-0"
    await store.submit(job, queue_limit=10, tenant_limit=10)
    last = await store.last_event_id(job.id)
    assert await store.next_events(job.id, last, wait_seconds=0.01) == []
    await store.cancel(job.id, job.tenant)
    assert [event for _, event, _ in await store.next_events(job.id, last, wait_seconds=1)] == ["job.canceled"]


async def test_the_server_says_whether_it_keeps_what_it_accepts(store: JobStore) -> None:
    info = await store.server.info()
    assert (info["aof_enabled"], info["maxmemory_policy"], info["maxmemory"]) == (1, "noeviction", 0)
    assert info["used_memory"] > 0
