"""Replicate's API: what the official `replicate` clients send and expect, over the same jobs as everything else."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Annotated, Any

import redis
import structlog
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from app.contract.messages.job import Record
from app.contract.messages.params import ParamsRejected
from app.edge import errors
from app.edge.auth import Caller
from app.edge.stream_tokens import of_prediction
from app.jobs.admission import valid_idempotency_key
from app.jobs.cancel import cancel_job
from app.jobs.event_ids import known_place
from app.replicate.input import (
    Meant,
    PredictionRequest,
    VersionedPredictionRequest,
    as_written,
    in_our_words,
    refuse_unclear,
)
from app.replicate.models import named, served
from app.replicate.schemas import Prediction, PredictionPage, WebhookSecret, prediction
from app.replicate.stream import prediction_events, render
from app.routes.answers import (
    ACCESS,
    EVENT_STREAM,
    QUEUE,
    SUBMIT,
    TRACEPARENT,
    described,
    event_stream,
    problems,
    read_cursor,
    wait_wanted,
    write_cursor,
)
from app.routes.joining import admit
from app.routes.waiting import applied, send, wait_for_end
from app.services import Services, TheCaller, TheFullCaller, TheServices

router = APIRouter(tags=["replicate"])
log = structlog.get_logger()

BARE_WAIT = 58
"""Seconds of `Prefer: wait` without a number. The client hangs up after 60.5."""

PAGE = 100

_BARE = re.compile(r"(?:^|[,;\s])wait\s*(?:$|[,;])", re.IGNORECASE)


PREFER = {"name": "Prefer", "description": "`wait` or `wait=30`: answer when it is over, at most 60 s"}
_CREATING: dict[str, Any] = {
    "status_code": 201,
    "response_model": Prediction,
    "responses": problems(
        *ACCESS, errors.ModelNotFound, *SUBMIT, errors.ModelAway, errors.JobDeleted, errors.IdempotencyKeyReused
    ),
    "openapi_extra": described(PREFER, TRACEPARENT),
}


@router.post("/v1/predictions", **_CREATING)
async def create(
    body: VersionedPredictionRequest, request: Request, services: TheServices, caller: TheCaller
) -> Response:
    """Send a request in (Replicate's API)."""
    try:
        model = Meant.of((await named(services, body)).card)
    except ParamsRejected as unknown:
        model = await _meant_by_key(services, caller, request, unknown)
    return await _create(body, model, request, services, caller)


@router.post("/v1/models/{owner}/{name}/predictions", **_CREATING)
async def create_for_model(
    owner: str, name: str, body: PredictionRequest, request: Request, services: TheServices, caller: TheCaller
) -> Response:
    """Send a request in, for a model by its name (Replicate's API)."""
    try:
        model = Meant.of((await served(services, owner, name)).card)
    except errors.ModelNotFound as unknown:
        model = await _meant_by_key(services, caller, request, unknown)
    return await _create(body, model, request, services, caller)


async def _meant_by_key(services: Services, caller: Caller, request: Request, refusal: Exception) -> Meant:
    """What a request asks for whose model is not served any more: the job that its Idempotency-Key brought in before.

    Raises `refusal` if there is none.
    """
    key = valid_idempotency_key(request.headers.getlist("idempotency-key"))
    job = await services.admission.brought_in(key, caller) if key else None
    if job is None:
        raise refusal
    return Meant(job.model, tuple(control.model for control in job.spec.control))


async def _create(
    body: PredictionRequest, model: Meant, request: Request, services: Services, caller: Caller
) -> Response:
    seconds = _wait_wanted(request.headers.getlist("prefer"))
    wording = in_our_words(body.input, model)
    try:
        refuse_unclear(body.input, model)
        parameters = wording.parameters(webhook=body.owed())
        waiting = await admit(services, parameters, caller, request, waits=seconds is not None)
    except ParamsRejected as error:
        said = wording.in_their_words(error).errors
        raise ParamsRejected([replace(e, pointer=_pointer(e.pointer)) for e in said]) from error
    record, headers = waiting.record, {"Location": services.path(f"/v1/predictions/{waiting.record.id}")}
    if seconds is None:
        return await _created(await render(services, record, request), headers, services, caller)
    headers |= applied(request, seconds=seconds)

    async def answer() -> Response:
        end = services.feed.wait_for_end(record, seconds=seconds)
        async with waiting.answering():
            after = await wait_for_end(services, waiting, request, end)
            rendered = await render(services, after, request)
        if rendered.status == "processing":
            # Anything but "starting" is taken for an end here, and run() would return nothing.
            rendered.status = "starting"
        return await _created(rendered, headers, services, caller)

    return await send(request, answer(), status=201, headers=headers)


async def _created(rendered: Prediction, headers: dict[str, str], services: Services, caller: Caller) -> Response:
    if caller.key_id and caller.may_read:
        # The client for JavaScript sends no key there, and nor does the EventSource of a page that is handed the link.
        try:
            token = await services.stream_tokens.create(of_prediction(rendered.id), caller)
            rendered.urls.stream += f"?token={token}"
        except redis.RedisError as error:
            # The job is in: after an error the caller would send the request again, and have it drawn twice.
            log.warning("no token for a stream", job_id=rendered.id, error=type(error).__name__)
    return Response(rendered.model_dump_json(), 201, headers, media_type="application/json")


@router.get(
    "/v1/predictions",
    response_model=PredictionPage,
    responses=problems(*ACCESS, errors.InvalidRequest, *QUEUE, errors.PicturesUnavailable),
)
async def list_predictions(
    request: Request,
    services: TheServices,
    caller: TheCaller,
    cursor: Annotated[str | None, Query(max_length=128, description="Part of `next` of the page before")] = None,
) -> PredictionPage:
    """The caller's predictions, newest first (Replicate's API)."""
    records = await services.jobs.list_jobs(caller.tenant, limit=PAGE + 1, before=read_cursor(cursor), task="draw")
    models, base = await services.registry.models(), services.base(request)
    views = await asyncio.gather(*(services.view(record, request) for record in records[:PAGE]))
    more = len(records) > PAGE
    return PredictionPage(
        next=f"{base}/v1/predictions?cursor={write_cursor(records[PAGE - 1])}" if more else None,
        results=[prediction(view, models, base=base) for view in views],
    )


async def _drawing(services: Services, job_id: str, caller: Caller) -> Record:
    """The caller's job, if it draws: others are no predictions. Raises JobNotFound."""
    record = await services.record(job_id, caller)
    if record.task != "draw":
        raise errors.JobNotFound
    return record


_FOUND = problems(*ACCESS, errors.JobNotFound, *QUEUE, errors.PicturesUnavailable)


@router.get("/v1/predictions/{prediction_id}", response_model=Prediction, responses=_FOUND)
async def get_prediction(prediction_id: str, request: Request, services: TheServices, caller: TheCaller) -> Prediction:
    """One prediction (Replicate's API)."""
    record = await _drawing(services, prediction_id, caller)
    await services.watching.looked_at(record)
    return await render(services, record, request)


@router.post("/v1/predictions/{prediction_id}/cancel", response_model=Prediction, responses=_FOUND)
async def cancel_prediction(
    prediction_id: str, request: Request, services: TheServices, caller: TheCaller
) -> Prediction:
    """Call a prediction off; one that is over stays as it is (Replicate's API)."""
    record = await _drawing(services, prediction_id, caller)
    if not record.status.is_terminal:
        try:
            record = await cancel_job(services.jobs, record)
        except errors.JobIsOver:
            record = await _drawing(services, prediction_id, caller)
    return await render(services, record, request)


@router.get(
    "/v1/predictions/{prediction_id}/stream",
    response_class=Response,
    responses={
        200: {
            "description": "`logs`, then `output` for each picture or `error`, then `done`",
            "content": EVENT_STREAM,
        },
        204: {"description": "Last-Event-ID was the end: do not connect again"},
        **_FOUND,
    },
)
async def stream(
    prediction_id: str,
    request: Request,
    services: TheServices,
    caller: TheCaller,
    last_event_id: Annotated[str | None, Header(description="Go on after this `id:`")] = None,
) -> Response:
    """Follow a prediction (Replicate's API)."""
    record = await _drawing(services, prediction_id, caller)
    last = await services.jobs.last_event_id(record.id)
    after = known_place(last_event_id, last)
    if record.status.is_terminal and after == last:
        return Response(status_code=204)
    return event_stream(request, prediction_events(services, record, request, after))


@router.get("/v1/webhooks/default/secret", response_model=WebhookSecret, responses=problems(*ACCESS, *QUEUE))
async def webhook_secret(services: TheServices, caller: TheFullCaller, response: Response) -> WebhookSecret:
    """The secret that signs webhooks, as Standard Webhooks writes it, for keys with every scope (Replicate's too)."""
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecret(key=(await services.webhook_secrets.current(caller.tenant))[0])


def _pointer(ours: str) -> str:
    if ours.startswith("/webhook"):
        return ours.removesuffix("/url")
    return f"/input{as_written(ours)}"


def _wait_wanted(prefer: list[str]) -> int | None:
    return wait_wanted(prefer) or (BARE_WAIT if _BARE.search(",".join(prefer)) else None)
