"""The bodies that go out, as the OpenAPI shows them. What comes in is `JobRequest` in the contract.

Knows shapes and how a record becomes one. Refuses to fetch anything: whatever a view needs is handed to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.from_pictures import fitting_notes
from app.contract.messages.job import BlockedPicture, JobError, Record, Selection
from app.contract.messages.questions import EmbedSpec, Result, ScoreSpec, Task
from app.contract.messages.served import Pause, ServedModel
from app.contract.messages.spec import JobSpec
from app.contract.messages.urgency import Priority
from app.edge.problems import job_problem_title
from app.jobs.picture_views import ImageView


class Progress(BaseModel):
    """Steps are model evaluations; a scheduler of higher order needs more of them than num_inference_steps."""

    step: int
    steps: int
    images_done: int
    stage: str | None = Field(
        default=None, description="What a model of several parts is at: prior, inversion or decoder; null for others"
    )

    @classmethod
    def of(cls, record: Record) -> Progress:
        return cls(
            step=record.step,
            steps=record.steps or record.spec.num_inference_steps or 1,
            images_done=len(record.images),
            stage=(record.stage or None) if record.status is Status.RUNNING else None,
        )


class QueuePlace(BaseModel):
    """Where a queued job stands."""

    position: int = Field(description="Jobs that come before it; 0 is next")
    workers: int = Field(description="Workers of its model that were heard of lately; without any, it waits for one")
    eta_seconds: float | None = Field(description="Until it is finished at the present pace; null while nobody knows")


class JobErrorView(BaseModel):
    """Why the job failed."""

    type: str
    title: str
    detail: str

    @classmethod
    def of(cls, error: JobError, *, prefix: str) -> JobErrorView:
        """`prefix` is the path under which a proxy shows the service."""
        return cls(type=f"{prefix}/problems/{error.slug}", title=job_problem_title(error.slug), detail=error.detail)


class JobUrls(BaseModel):
    """Where to go from here."""

    self: str
    events: str
    cancel: str


JOB_EXAMPLE: dict[str, Any] = {
    "id": "job_0123456789abcdef01234567",
    "object": "job",
    "status": "running",
    "task": "draw",
    "model": "starter",
    "requested_model": None,
    "input": {
        "model": "starter",
        "prompt": "a red circle on a blue background",
        "negative_prompt": None,
        "width": 128,
        "height": 128,
        "num_inference_steps": 30,
        "guidance_scale": 3.0,
        "scheduler": "euler_a",
        "seed": 7,
        "num_images": 1,
        "output_format": "png",
    },
    "progress": {"step": 5, "steps": 20, "images_done": 0},
    "queue": None,
    "images": [],
    "blocked": [],
    "selection": None,
    "result": None,
    "error": None,
    "warnings": [],
    "attempts": 1,
    "resumed_at_step": 0,
    "timings": {"queued": 0.012},
    "created_at": "2026-01-01T12:00:00.000Z",
    "started_at": "2026-01-01T12:00:00.012Z",
    "ended_at": None,
    "expires_at": None,
    "priority": "interactive",
    "deadline_at": "2026-01-01T12:00:10.000Z",
    "deadline_met": None,
    "metadata": {"order": "17"},
    "urls": {
        "self": "http://127.0.0.1:8000/v1/jobs/job_0123456789abcdef01234567",
        "events": "http://127.0.0.1:8000/v1/jobs/job_0123456789abcdef01234567/events",
        "cancel": "http://127.0.0.1:8000/v1/jobs/job_0123456789abcdef01234567/cancel",
    },
}


class JobView(BaseModel):
    """A job. `input` shows every parameter with the value that is used, the drawn seed included."""

    id: str
    object: Literal["job"] = "job"
    status: Status
    task: Task = Field(description="draw: pictures; score and embed: a result")
    model: str = Field(description="The model that draws or answers, by its own name")
    requested_model: str | None = Field(description="The other name under which it was asked for, if it was")
    input: JobSpec | ScoreSpec | EmbedSpec
    progress: Progress
    queue: QueuePlace | None = Field(description="While it is queued")
    images: list[ImageView]
    blocked: list[BlockedPicture] = Field(description="Pictures that are not shown: the safety checker flagged them")
    selection: Selection | None = Field(
        description="Of jobs with best_of, expect or min_probability: all that were drawn, and how well each fits"
    )
    result: Result | None = Field(description="What a job that draws nothing found out. Lists leave it out")
    error: JobErrorView | None
    warnings: list[str]
    attempts: int
    resumed_at_step: int = Field(default=0, description="Evaluations that the present attempt went on from; 0: none")
    timings: dict[str, float] = Field(description="Seconds: queued, encode, denoise, decode, upload, total")
    created_at: str
    started_at: str | None
    ended_at: str | None
    expires_at: str | None = Field(description="When the record and the pictures will be deleted")
    priority: Priority
    deadline_at: str | None = Field(description="Until when it was asked for")
    deadline_met: bool | None = Field(description="Whether it had succeeded by then; null before its end")
    metadata: dict[str, str]
    urls: JobUrls

    @classmethod
    def of(
        cls,
        record: Record,
        *,
        base: str,
        links: Mapping[str, str] | None = None,
        queue: QueuePlace | None = None,
        warnings: Sequence[str] = (),
    ) -> JobView:
        """A record as its owner may see it. `base` is the gateway's address without a slash at the end, `links` the URL
        of every object key of the record, `warnings` what is to be said now beside the record's own."""
        own = f"{base}/v1/jobs/{record.id}"
        error = record.error
        return cls(
            id=record.id,
            status=record.status,
            task=record.task,
            model=record.model,
            requested_model=record.requested_model or None,
            input=record.question or record.spec,
            progress=Progress.of(record),
            queue=queue,
            images=[ImageView.of(picture, links or {}, job_url=own) for picture in record.images],
            blocked=list(record.blocked),
            selection=record.selection,
            result=record.result,
            error=error and JobErrorView.of(error, prefix=urlsplit(base).path),
            warnings=[*warnings, *fitting_notes(record.spec), *record.warnings],
            attempts=record.attempt,
            resumed_at_step=record.resumed_at_step,
            timings=_timings(record),
            created_at=timestamp(record.created_ms),
            started_at=record.started_ms and timestamp(record.started_ms),
            ended_at=record.ended_ms and timestamp(record.ended_ms),
            expires_at=record.expires_ms and timestamp(record.expires_ms),
            priority=record.priority,
            deadline_at=record.due_ms and timestamp(record.due_ms),
            deadline_met=record.deadline_met,
            metadata=record.metadata,
            urls=JobUrls(self=own, events=f"{own}/events", cancel=f"{own}/cancel"),
        )


class JobList(BaseModel):
    """A page of the caller's jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobView]
    next_cursor: str | None = Field(description="Give it as `cursor` to get the next page; null on the last")


ModelState = Literal["ready", "away"]


class PauseView(BaseModel):
    """The operator has paused a model: its jobs are not drawn until it ends."""

    since: str
    until: str | None = Field(description="When it ends by itself; null if somebody has to end it")
    accepts: bool = Field(description="Whether further jobs come in, to wait; else they are 503 `model-paused`")
    reason: str = Field(description="What the operator says of it; may be empty")

    @classmethod
    def of(cls, pause: Pause) -> PauseView:
        until = None if pause.until_ms is None else timestamp(pause.until_ms)
        return cls(since=timestamp(pause.since_ms), until=until, accepts=pause.accepts, reason=pause.reason)


class ModelView(ModelCard):
    """A served model: its card, and whether anybody serves it now."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="Seconds since 1970; there for OpenAI's clients, and not known here")
    owned_by: str = Field(default="darkroom", description="There for OpenAI's clients")
    state: ModelState = Field(description="away: no worker was heard of lately; jobs wait for one")
    workers: int
    in_memory: int = Field(
        description="Workers that have it in memory. The others of `workers` have another model there, and take this "
        "one up when its jobs wait"
    )
    ready_seconds: float | None = Field(
        description="Where no worker has it in memory: how long until one could, once a job waits. Else null"
    )
    waiting: int = Field(description="Jobs that wait for it, everybody's")
    seen_at: str = Field(description="When a worker was last heard of: since then it is away")
    pace_seconds: float | None = Field(description="How long one job runs, moving average")
    paused: PauseView | None = Field(description="While the operator has its jobs wait")
    default: bool = Field(description="The model of requests that name none, as things stand")
    alias_of: str | None = Field(description="This id is another name, given by the operator, of that model")

    @classmethod
    def of(cls, model: ServedModel, *, is_default: bool, alias: str | None = None) -> ModelView:
        """A model under its own name, or under an alias."""
        card = model.card
        return cls(
            id=alias or card.name,
            state=state_of(model),
            workers=model.workers,
            in_memory=model.in_memory,
            ready_seconds=None if model.ready_ms is None else round(model.ready_ms / 1000, 1),
            waiting=model.waiting,
            seen_at=timestamp(model.seen_ms),
            pace_seconds=None if model.pace_ms is None else model.pace_ms / 1000,
            paused=model.paused and PauseView.of(model.paused),
            default=is_default and alias is None,
            alias_of=card.name if alias else None,
            **card.model_dump(),
        )


def state_of(model: ServedModel) -> ModelState:
    return "ready" if model.workers else "away"


class ModelList(BaseModel):
    """Every model that workers have announced, then the operator's aliases."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class CheckView(BaseModel):
    """One thing that /readyz looked at."""

    ok: bool
    detail: str


class ReadinessView(BaseModel):
    """Whether this gateway can do its work, and what is in the way."""

    ready: bool
    checks: dict[str, CheckView]


def timestamp(ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _timings(record: Record) -> dict[str, float]:
    timings = dict(record.timings)
    if record.started_ms:
        timings["queued"] = (record.started_ms - record.created_ms) / 1000
    if record.ended_ms:
        timings["total"] = (record.ended_ms - record.created_ms) / 1000
    return timings
