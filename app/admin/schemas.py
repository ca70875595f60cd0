"""The bodies of the operator's routes, as the OpenAPI shows them. No prompt and no picture is in any of them.

Knows shapes and how what was read becomes one. Refuses to fetch anything.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.contract.messages.audit import Entry, Via
from app.contract.messages.job import JobError, Record
from app.contract.messages.questions import Task
from app.contract.messages.served import ServedModel
from app.contract.messages.worker_note import WorkerNote
from app.contract.redis.overview import SeenWorker, Share
from app.jobs.retries import REFUSALS, Rerun
from app.jobs.schemas import ModelState, PauseView, state_of, timestamp

NEXT = "Give it as `cursor` to get the next page; null on the last"


class ShareView(BaseModel):
    """What one caller has of one model's queue. Costs are megapixel steps, as keys and turns count them."""

    model: str
    tenant: str
    waiting: int = Field(description="Jobs that wait")
    running: int = Field(description="Jobs that a worker has")
    waiting_cost: float
    running_cost: float
    oldest_waiting_at: str | None = Field(description="When the oldest of those that wait came in")

    @classmethod
    def of(cls, share: Share) -> ShareView:
        return cls(
            model=share.model,
            tenant=share.tenant,
            waiting=share.waiting,
            running=share.running,
            waiting_cost=round(share.waiting_cost, 3),
            running_cost=round(share.running_cost, 3),
            oldest_waiting_at=None if share.oldest_ms is None else timestamp(share.oldest_ms),
        )


class QueueView(BaseModel):
    """Who has jobs that are not over, the most costly first."""

    object: Literal["list"] = "list"
    data: list[ShareView]
    next_cursor: str | None = Field(description=NEXT)


WorkerState = Literal["starting", "serving", "draining"]


class WorkerView(BaseModel):
    """A worker that was heard of in the last 35 s. What it says of itself is as old as its last beat, 10 s at most."""

    name: str
    state: WorkerState = Field(description="draining: it takes no more jobs, and leaves with its last one")
    models: list[str] = Field(description="What it serves; empty while it starts")
    in_memory: list[str] = Field(
        description="Those of them that it has in memory; it takes another up when it is needed"
    )
    device: str | None
    seats: int | None = Field(description="Pictures it draws at the same time")
    free_seats: int | None
    jobs: int | None = Field(description="Jobs that it holds, those that are being stored included")
    rows_per_second: float | None = Field(
        description="Rows of the denoiser's batches between its last two beats; a picture with guidance has two"
    )
    activity: str | None = Field(description="What it was at")
    version: str | None = Field(description="Of Darkroom; null, as all that it does not say, of an earlier release")
    uptime_seconds: float | None
    last_beat_at: str
    draining_since: str | None

    @classmethod
    def of(cls, worker: SeenWorker, note: WorkerNote | None) -> WorkerView:
        """`note` is what it said of itself, if it did."""
        known = note.model_dump() if note else dict.fromkeys(WorkerNote.model_fields)
        known |= {"activity": worker.starting} if worker.starting else {}
        return cls(
            name=worker.name,
            state=_state_of(worker),
            models=[*worker.models],
            in_memory=[*worker.in_memory],
            last_beat_at=timestamp(worker.beat_ms),
            draining_since=None if worker.draining_ms is None else timestamp(worker.draining_ms),
            **known,
        )


def _state_of(worker: SeenWorker) -> WorkerState:
    if worker.starting:
        return "starting"
    return "serving" if worker.draining_ms is None else "draining"


class WorkerList(BaseModel):
    """Workers by their names."""

    object: Literal["list"] = "list"
    data: list[WorkerView]
    next_cursor: str | None = Field(description=NEXT)


class AdminModelView(BaseModel):
    """A model and its queue."""

    id: str
    state: ModelState
    workers: int
    in_memory: int = Field(description="Workers that have it in memory, and not another of theirs")
    seats: int = Field(description="Of all workers together that have it in memory")
    waiting: int
    running: int
    oldest_waiting_seconds: float
    unserved_seconds: float = Field(description="For how long jobs have waited and none was claimed")
    paused: PauseView | None
    pace_seconds: float | None = Field(description="How long one job runs, moving average")
    seen_at: str = Field(description="When a worker was last heard of")

    @classmethod
    def of(cls, model: ServedModel, **of_queue: Any) -> AdminModelView:
        """`of_queue` are the fields that tell of its queue."""
        return cls(
            id=model.card.name,
            state=state_of(model),
            workers=model.workers,
            in_memory=model.in_memory,
            seats=model.in_memory * model.card.seats,
            pace_seconds=None if model.pace_ms is None else model.pace_ms / 1000,
            seen_at=timestamp(model.seen_ms),
            paused=model.paused and PauseView.of(model.paused),
            **of_queue,
        )


class AdminModelList(BaseModel):
    """Every model that workers have announced and nobody has forgotten."""

    object: Literal["list"] = "list"
    data: list[AdminModelView]


class DeadJobView(BaseModel):
    """A job that used up its attempts: its worker was lost each time."""

    id: str
    object: Literal["dead_job"] = "dead_job"
    tenant: str
    model: str
    task: Task
    attempts: int
    error: JobError | None
    created_at: str
    died_at: str

    @classmethod
    def of(cls, record: Record, died_ms: int) -> DeadJobView:
        return cls(
            id=record.id,
            tenant=record.tenant,
            model=record.model,
            task=record.task,
            attempts=record.attempt,
            error=record.error,
            created_at=timestamp(record.created_ms),
            died_at=timestamp(died_ms),
        )


class DeadJobList(BaseModel):
    """Dead jobs that were not run again, the latest first."""

    object: Literal["list"] = "list"
    data: list[DeadJobView]
    next_cursor: str | None = Field(description=NEXT)


class DrainView(BaseModel):
    """A worker that was told to leave, or to go on."""

    object: Literal["drain"] = "drain"
    worker: str
    state: Literal["draining", "left", "serving", "starting"]


class RerunView(BaseModel):
    """What became of a job that was to run again."""

    object: Literal["retry"] = "retry"
    retry_of: str
    id: str | None = Field(description="The job that runs in its place; null if it cannot")
    refusal: str | None = Field(description="Why it cannot: a word, and in `detail` a sentence")
    detail: str | None

    @classmethod
    def of(cls, done: Rerun) -> RerunView:
        detail = REFUSALS[done.refusal] if done.refusal else None
        return cls(retry_of=done.id, id=done.new_id or None, refusal=done.refusal, detail=detail)


class RerunList(BaseModel):
    """What became of dead jobs, a page of them."""

    object: Literal["list"] = "list"
    data: list[RerunView]
    next_cursor: str | None = Field(description=NEXT)


class ChangeView(BaseModel):
    """One change: when, who, what, on what, with what outcome."""

    id: str
    at: str
    action: str
    target: str = Field(description="The model, worker, tenant, job or key")
    outcome: str
    tenant: str = Field(description="Whose key it was; empty from the service's own machine")
    key_id: str = Field(description="Which key; empty without one")
    via: Via = Field(description="api, or machine: a command on the service's machine")

    @classmethod
    def of(cls, entry: Entry) -> ChangeView:
        return cls(id=entry.id, at=timestamp(entry.at_ms), **entry.change.model_dump())


class Audit(BaseModel):
    """What operators have changed, the latest first: of the last 400 days, and 10,000 changes at most."""

    object: Literal["list"] = "list"
    data: list[ChangeView]
    next_cursor: str | None = Field(description=NEXT)
