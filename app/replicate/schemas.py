"""A job in Replicate's words: what its clients read of a prediction, a model and a version.

Knows shapes and how a job's view becomes one. Refuses to know Redis and HTTP. What comes in is in prediction_input.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, Field

from app.contract.messages.events import Status
from app.contract.messages.job import Picture
from app.contract.messages.served import ServedModel
from app.contract.messages.spec import Delivery, JobSpec, PictureSpec, values_of
from app.jobs.schemas import JobView, ModelState, state_of, timestamp
from app.replicate.input import published_schema

OWNER: Final = "darkroom"
"""Models here have no owner of their own; Replicate's clients need one."""

COG_VERSION: Final = "0.16.9"
"""Whose conventions the schema of a version follows. Before 0.3.9, clients would read a list as a stream."""

UNKNOWN_VERSION: Final = "hidden"
"""Replicate's word. The card of a job's model goes when Redis is begun anew."""

STATUSES: Final = {Status.QUEUED: "starting", Status.RUNNING: "processing"}
_VERSION = re.compile(rf"(?:{OWNER}/)?([^/:]+)(?::([0-9a-f]{{64}}))?")

Word = Literal["starting", "processing", "succeeded", "failed", "canceled"]


class PredictionUrls(BaseModel):
    """Where to go from here."""

    get: str
    cancel: str
    stream: str = Field(description="In the answer to the request that made it, with a token: it opens without a key")
    web: str


class Prediction(BaseModel):
    """A job as Replicate's clients know it."""

    id: str
    model: str
    version: str
    status: Word
    input: dict[str, Any]
    output: list[str] | None
    error: str | None
    logs: str = Field(description="The seed, and a progress bar from which the clients compute a percentage")
    metrics: dict[str, float]
    created_at: str
    started_at: str | None
    completed_at: str | None
    data_removed: bool = False
    source: Literal["api"] = "api"
    urls: PredictionUrls


class PredictionPage(BaseModel):
    """A page of the caller's predictions, newest first."""

    previous: str | None = None
    next: str | None
    results: list[Prediction]


class Version(BaseModel):
    """The weights of a model, and what it takes and gives."""

    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any]


class VersionPage(BaseModel):
    """The versions of a model: the one that is served."""

    previous: str | None = None
    next: str | None = None
    results: list[Version]


class ReplicateModel(BaseModel):
    """A served model as Replicate's clients know it."""

    url: str
    owner: str
    name: str
    description: str
    visibility: Literal["private"] = "private"
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    cover_image_url: str | None = None
    run_count: int = 0
    default_example: None = None
    latest_version: Version
    state: ModelState = Field(description="Beside Replicate's words: as GET /v1/models has it")
    default: bool = Field(description="Beside Replicate's words: the model of requests that name none")


class WebhookSecret(BaseModel):
    """What the signatures of the caller's webhooks are checked with."""

    key: str


def prediction(
    view: JobView, models: Mapping[str, ServedModel], *, base: str, output: list[str] | None = None
) -> Prediction:
    """The job in Replicate's words. `output` replaces the pictures' links."""
    model, spec = models.get(view.model), _drawn(view)
    own = f"{base}/v1/predictions/{view.id}"
    links = [image.url for image in view.images]
    return Prediction(
        id=view.id,
        model=f"{OWNER}/{view.model}",
        version=model.card.sha256 if model else UNKNOWN_VERSION,
        status=cast(Word, STATUSES.get(view.status, view.status.value)),
        input=values_of(spec, PictureSpec) | values_of(spec, Delivery),
        output=(output or links) if view.status is Status.SUCCEEDED else None,
        error=view.error.detail if view.error else None,
        logs=logs(view),
        metrics=_metrics(view),
        created_at=view.created_at,
        started_at=view.started_at,
        completed_at=view.ended_at,
        urls=PredictionUrls(get=own, cancel=f"{own}/cancel", stream=f"{own}/stream", web=f"{base}/"),
    )


def _drawn(view: JobView) -> JobSpec:
    if not isinstance(view.input, JobSpec):
        raise TypeError(f"{view.id} draws nothing, and is no prediction")
    return view.input


def logs(view: JobView) -> str:
    """What a model on Replicate would have printed by now."""
    lines = [f"Using seed: {_drawn(view).seed}"]
    if view.progress.step:
        lines.append(progress_bar(view.progress.step, view.progress.steps, view.progress.stage))
    lines += [f"NSFW content detected in image {picture.index}" for picture in view.blocked]
    return "".join(f"{line}\n" for line in lines)


def progress_bar(step: int, steps: int, stage: str | None = None) -> str:
    """A line as tqdm writes it, the stage as its postfix: the clients' `progress` is read from it."""
    part = step / max(1, steps)
    bar = f"{int(part * 100):3}%|{'#' * int(part * 10):10}| {step}/{steps}"
    return f"{bar}, {stage}" if stage else bar


def by_version(models: Mapping[str, ServedModel], version: str) -> ServedModel | None:
    """The model that a version names: by its weights, as darkroom/name, or as darkroom/name:weights. Of several with
    the same weights, one that has a worker, or had one last."""
    found = _VERSION.fullmatch(version)
    if found and found[1] in models and found[2] in (None, models[found[1]].card.sha256):
        return models[found[1]]
    same = [model for model in models.values() if model.card.sha256 == version]
    return max(same, key=lambda model: (model.workers > 0, model.seen_ms), default=None)


def version_of(model: ServedModel) -> Version:
    """The one version of a model that is served."""
    schema = published_schema(model.card)
    output = {"type": "array", "title": "Output", "items": {"type": "string", "format": "uri"}}
    described = {
        "openapi": "3.0.2",
        "info": {"title": "Darkroom", "version": "1"},
        "paths": {},
        "components": {"schemas": {"Input": schema, "Output": output}},
    }
    return Version(id=model.card.sha256, created_at=timestamp(0), cog_version=COG_VERSION, openapi_schema=described)


def model_of(model: ServedModel, *, base: str, is_default: bool) -> ReplicateModel:
    """A served model; `is_default` if it is that of requests that name none."""
    card = model.card
    return ReplicateModel(
        url=f"{base}/",
        owner=OWNER,
        name=card.name,
        description=card.family,
        latest_version=version_of(model),
        state=state_of(model),
        default=is_default,
    )


def data_url(picture: Picture, b64: str) -> str:
    """The picture itself as a URL."""
    return f"data:{picture.content_type};base64,{b64}"


def _metrics(view: JobView) -> dict[str, float]:
    if "total" not in view.timings:
        return {}
    total = view.timings["total"]
    return {"predict_time": round(total - view.timings.get("queued", total), 3), "total_time": round(total, 3)}
