"""Calling jobs off and taking them away.

Knows the order in which things go: cancel, pictures, record. Refuses to know who may ask for it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from app.contract.messages.events import Status
from app.contract.messages.job import Record
from app.contract.objects.names import job_prefix
from app.contract.redis.store import JobStore
from app.edge.errors import JobIsOver, JobNotFound, JobStillRunning
from app.pictures.store import PictureStore

CANCEL_SECONDS = 10.0
"""How long a deletion waits for the worker to let go: a step takes less, and so does a beat."""


class Cancellation(BaseModel):
    """What became of the jobs that were called off together."""

    object: Literal["cancellation"] = "cancellation"
    canceled: list[str] = Field(description="Ids of jobs that are canceled now")
    requested: list[str] = Field(description="Ids of running jobs whose worker was told: they end within a step")
    has_more: bool = Field(description="There are further ones: send the same request again")


async def cancel_job(store: JobStore, record: Record) -> Record:
    """The job as it is after it was called off; a running one is told and still runs for a step.

    Raises JobIsOver if it has succeeded or failed, JobNotFound if it was deleted meanwhile.
    """
    outcome = await store.cancel(record.id, record.tenant)
    after = await store.get(record.id, record.tenant)
    if after is None:
        raise JobNotFound
    if outcome == "over":
        raise JobIsOver(f"The job has {after.status.value} already: there is nothing left to cancel.")
    return after


async def cancel_all(
    store: JobStore, tenant: str, *, limit: int, status: Status | None = None, metadata: dict[str, str] | None = None
) -> Cancellation:
    """Call off the tenant's jobs that are not over, at most `limit`: all, or those of a status, or with these notes.

    Called again after an answer that was lost, it goes on with what is left.
    """
    found = await store.open_jobs(tenant, limit=limit + 1, status=status, metadata=metadata)
    # Those that wait go first: a worker that lets go of a running one would take the next of them.
    chosen = sorted(found[:limit], key=lambda record: record.status is Status.RUNNING)
    outcomes = await store.cancel_all([record.id for record in chosen], tenant)
    by_outcome: dict[str, list[str]] = {"canceled": [], "requested": []}
    for record, outcome in zip(chosen, outcomes, strict=True):
        by_outcome.setdefault(outcome, []).append(record.id)
    return Cancellation(canceled=by_outcome["canceled"], requested=by_outcome["requested"], has_more=len(found) > limit)


async def stop_job(store: JobStore, record: Record) -> Record:
    """The job once it is over, called off if need be; as it is after CANCEL_SECONDS if its worker does not react."""
    if record.status.is_terminal:
        return record
    await store.cancel(record.id, record.tenant)
    return await store.wait_for_end(record, seconds=CANCEL_SECONDS)


async def remove_job(store: JobStore, pictures: PictureStore, record: Record) -> None:
    """Take a job that is over away, pictures first. Raises JobStillRunning, storage.PictureStoreError."""
    if not record.status.is_terminal:
        detail = "The job was told to stop and its worker has not let go yet: delete it again in a moment."
        raise JobStillRunning(detail, headers={"Retry-After": "5"})
    await pictures.delete_prefix(job_prefix(record.id))
    await store.forget(record.id)
