"""Replicate's API: what the official `replicate` clients send and expect, over the same jobs as everything else."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

import redis
import structlog
from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import format_sse_event
from starlette.responses import Response

from app.contract.messages.events import FINAL_EVENTS, Event, Status
from app.contract.messages.job import Record
from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.messages.served import ServedModel
from app.edge import errors
from app.edge.auth import Caller
from app.jobs.admission import valid_idempotency_key
from app.jobs.cancel import cancel_job
from app.jobs.event_ids import known_place
from app.pictures.store import PictureStoreError
from app.replicate.input import PredictionRequest, VersionedPredictionRequest, in_our_words
from app.replicate.schemas import (
    OWNER,
    Prediction,
    PredictionPage,
    ReplicateModel,
    Version,
    VersionPage,
    WebhookSecret,
    by_version,
    data_url,
    model_of,
    prediction,
    progress_bar,
    version_of,
)
from app.routes.answers import (
    ACCESS,
    EVENT_STREAM,
    QUEUE,
    SUBMIT,
    TRACEPARENT,
    described,
    event_stream,
    picture_base64,
    problems,
    read_cursor,
    wait_wanted,
    write_cursor,
)
from app.routes.events import HEARTBEAT_SECONDS, RETRY_MS
from app.routes.joining import admit
from app.routes.waiting import applied, send, wait_until_over
from app.services import Gateway, TheCaller, TheFullCaller, TheGateway

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
    body: VersionedPredictionRequest, request: Request, gateway: TheGateway, caller: TheCaller
) -> Response:
    """Send a wish in (Replicate's API)."""
    try:
        name = (await _named(gateway, body)).card.name
    except ParamsRejected as unknown:
        name = await _name_by_key(gateway, caller, request, unknown)
    return await _create(body, name, request, gateway, caller)


@router.post("/v1/models/{owner}/{name}/predictions", **_CREATING)
async def create_for_model(
    owner: str, name: str, body: PredictionRequest, request: Request, gateway: TheGateway, caller: TheCaller
) -> Response:
    """Send a wish in, for a model by its name (Replicate's API)."""
    try:
        name = (await _model(gateway, owner, name)).card.name
    except errors.ModelNotFound as unknown:
        name = await _name_by_key(gateway, caller, request, unknown)
    return await _create(body, name, request, gateway, caller)


async def _name_by_key(gateway: Gateway, caller: Caller, request: Request, refusal: Exception) -> str:
    """What a request asks for whose model is not served any more: the job that its Idempotency-Key brought in before.

    Raises `refusal` if there is none.
    """
    key = valid_idempotency_key(request.headers.getlist("idempotency-key"))
    name = await gateway.admission.model_of(key, caller) if key else None
    if name is None:
        raise refusal
    return name


async def _create(body: PredictionRequest, model: str, request: Request, gateway: Gateway, caller: Caller) -> Response:
    seconds = _wait_wanted(request.headers.getlist("prefer"))
    wording = in_our_words(body.input, model)
    try:
        wish = wording.wish(webhook=body.owed())
        waiting = await admit(gateway, wish, caller, request, waits=seconds is not None)
    except ParamsRejected as error:
        said = wording.in_their_words(error).errors
        raise ParamsRejected([replace(e, pointer=_pointer(e.pointer)) for e in said]) from error
    record, headers = waiting.record, {"Location": gateway.path(f"/v1/predictions/{waiting.record.id}")}
    if seconds is None:
        return _created(await _show(gateway, record, request), headers)
    headers |= applied(request, seconds=seconds)

    async def answer() -> Response:
        end = gateway.feed.wait_until_over(record, seconds=seconds)
        async with waiting.answering():
            after = await wait_until_over(gateway, waiting, request, end)
            shown = await _show(gateway, after, request)
        if shown.status == "processing":
            # Anything but "starting" is taken for an end here, and run() would return nothing.
            shown.status = "starting"
        return _created(shown, headers)

    return await send(request, answer(), status=201, headers=headers)


def _created(shown: Prediction, headers: dict[str, str]) -> Response:
    return Response(shown.model_dump_json(), 201, headers, media_type="application/json")


@router.get(
    "/v1/predictions",
    response_model=PredictionPage,
    responses=problems(*ACCESS, errors.InvalidRequest, *QUEUE, errors.PicturesUnavailable),
)
async def list_predictions(
    request: Request,
    gateway: TheGateway,
    caller: TheCaller,
    cursor: Annotated[str | None, Query(max_length=128, description="Part of `next` of the page before")] = None,
) -> PredictionPage:
    """The caller's predictions, newest first (Replicate's API)."""
    records = await gateway.store.list_jobs(caller.tenant, limit=PAGE + 1, before=read_cursor(cursor))
    models, base = await gateway.board.models(), gateway.base(request)
    views = await asyncio.gather(*(gateway.view(record, request) for record in records[:PAGE]))
    more = len(records) > PAGE
    return PredictionPage(
        next=f"{base}/v1/predictions?cursor={write_cursor(records[PAGE - 1])}" if more else None,
        results=[prediction(view, models, base=base) for view in views],
    )


_FOUND = problems(*ACCESS, errors.JobNotFound, *QUEUE, errors.PicturesUnavailable)


@router.get("/v1/predictions/{prediction_id}", response_model=Prediction, responses=_FOUND)
async def get_prediction(prediction_id: str, request: Request, gateway: TheGateway, caller: TheCaller) -> Prediction:
    """One prediction (Replicate's API)."""
    return await _show(gateway, await gateway.record(prediction_id, caller), request)


@router.post("/v1/predictions/{prediction_id}/cancel", response_model=Prediction, responses=_FOUND)
async def cancel_prediction(prediction_id: str, request: Request, gateway: TheGateway, caller: TheCaller) -> Prediction:
    """Call a prediction off; one that is over stays as it is (Replicate's API)."""
    record = await gateway.record(prediction_id, caller)
    if not record.status.is_over:
        try:
            record = await cancel_job(gateway.store, record)
        except errors.JobIsOver:
            record = await gateway.record(prediction_id, caller)
    return await _show(gateway, record, request)


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
    gateway: TheGateway,
    caller: TheCaller,
    last_event_id: Annotated[str | None, Header(description="Go on after this `id:`")] = None,
) -> Response:
    """Follow a prediction (Replicate's API)."""
    record = await gateway.record(prediction_id, caller)
    last = await gateway.store.last_event_id(record.id)
    after = known_place(last_event_id, last)
    if record.status.is_over and after == last:
        return Response(status_code=204)
    return event_stream(request, _tell(gateway, record, request, after))


@router.get(
    "/v1/models/{owner}/{name}",
    response_model=ReplicateModel,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def get_model(owner: str, name: str, request: Request, gateway: TheGateway) -> ReplicateModel:
    """One model (Replicate's API)."""
    model = await _model(gateway, owner, name)
    return model_of(model, base=gateway.base(request), is_default=model == await gateway.models.default())


@router.get(
    "/v1/models/{owner}/{name}/versions",
    response_model=VersionPage,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def list_versions(owner: str, name: str, gateway: TheGateway) -> VersionPage:
    """The version of a model that is served (Replicate's API)."""
    return VersionPage(results=[version_of(await _model(gateway, owner, name))])


@router.get(
    "/v1/models/{owner}/{name}/versions/{version}",
    response_model=Version,
    responses=problems(*ACCESS, errors.ModelNotFound, *QUEUE),
)
async def get_version(owner: str, name: str, version: str, gateway: TheGateway) -> Version:
    """What a version of a model takes and gives (Replicate's API)."""
    found = version_of(await _model(gateway, owner, name))
    if found.id != version:
        raise errors.ModelNotFound
    return found


@router.get("/v1/webhooks/default/secret", response_model=WebhookSecret, responses=problems(*ACCESS, *QUEUE))
async def webhook_secret(gateway: TheGateway, caller: TheFullCaller, response: Response) -> WebhookSecret:
    """The secret that signs webhooks, as Standard Webhooks writes it, for keys with every scope (Replicate's too)."""
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecret(key=(await gateway.webhook_secrets.current(caller.tenant))[0])


async def _model(gateway: Gateway, owner: str, name: str) -> ServedModel:
    # An alias may be a whole name of Replicate's, such as stability-ai/sdxl.
    model = await gateway.models.named(name if owner == OWNER else f"{owner}/{name}")
    if model is None:
        raise errors.ModelNotFound
    return model


async def _named(gateway: Gateway, body: VersionedPredictionRequest) -> ServedModel:
    """The model that `version` or `model` says, or that of requests that name none."""
    by_model = await _versioned(gateway, body.model, "/model") if body.model is not None else None
    by_id = await _versioned(gateway, body.version, "/version") if body.version is not None else None
    if by_model is not None and by_id is not None and by_model.card.name != by_id.card.name:
        raise ParamsRejected([ParamError("/model", "said_twice", "is another model than version names")])
    if found := by_id or by_model:
        return found
    try:
        return await gateway.models.choose(None)
    except ParamsRejected as error:
        raise ParamsRejected([replace(e, pointer="/version") for e in error.errors]) from error


async def _versioned(gateway: Gateway, version: str, pointer: str) -> ServedModel:
    name = version.removeprefix(f"{OWNER}/")
    if name in gateway.models.aliases:
        model = await gateway.models.named(name)
    else:
        board = gateway.board
        model = by_version(await board.models(), version) or by_version(await board.look_again(), version)
    if model is None:
        raise ParamsRejected([ParamError(pointer, "model_unknown", "names no model or version that is served here")])
    return model


def _pointer(ours: str) -> str:
    return ours.removesuffix("/url") if ours.startswith("/webhook") else f"/input{ours}"


def _wait_wanted(prefer: list[str]) -> int | None:
    return wait_wanted(prefer) or (BARE_WAIT if _BARE.search(",".join(prefer)) else None)


async def _show(gateway: Gateway, record: Record, request: Request) -> Prediction:
    """Clients make objects with read() of https: and data: links only, so on plain http the pictures come along."""
    base, output = gateway.base(request), None
    if record.status is Status.SUCCEEDED and not base.startswith("https:"):
        output = [data_url(picture, await picture_base64(gateway, picture)) for picture in record.images]
    return prediction(await gateway.view(record, request), await gateway.board.models(), base=base, output=output)


async def _tell(gateway: Gateway, record: Record, request: Request, after: str | None) -> AsyncIterator[bytes]:
    """Bytes of events; every one has an id. Outputs bear the id before the end: who resumes sees them again."""
    ends, place = time.monotonic() + gateway.settings.stream_seconds, after or "0-0"
    try:
        if after is None:
            yield format_sse_event(event="logs", id="0-0", data_str=f"Using seed: {record.spec.seed}")
        async with gateway.feed.follow(record.id, place) as follower:
            while (left := ends - time.monotonic()) > 0:
                news = await follower.next(min(left, HEARTBEAT_SECONDS))
                if news is None:
                    break
                for event_id, event, data in news:
                    if event in FINAL_EVENTS:
                        record = await gateway.store.get(record.id, record.tenant) or record
                        async for chunk in _end(gateway, record, request, place, event_id):
                            yield chunk
                        return
                    if event == Event.PROGRESS:
                        bar = progress_bar(data["step"], data["steps"])
                        yield format_sse_event(event="logs", id=event_id, data_str=bar)
                    place = event_id
                if not news:
                    yield format_sse_event(comment="")
    except (redis.RedisError, PictureStoreError, errors.Problem) as error:
        log.info("prediction stream broke off", job_id=record.id, error=type(error).__name__)
    yield format_sse_event(retry=RETRY_MS)


async def _end(gateway: Gateway, record: Record, request: Request, place: str, last: str) -> AsyncIterator[bytes]:
    shown = await _show(gateway, record, request)
    for output in shown.output or []:
        yield format_sse_event(event="output", id=place, data_str=output)
    if shown.error is not None:
        yield format_sse_event(event="error", id=place, data_str=shown.error)
    reason = {"failed": {"reason": "error"}, "canceled": {"reason": "canceled"}}.get(shown.status, {})
    yield format_sse_event(event="done", id=last, data_str=json.dumps(reason))
