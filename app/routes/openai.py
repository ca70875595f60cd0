"""OpenAI's image API: what the official `openai` clients send and expect, over the same jobs as everything else.

A request waits for its job. Where a client tries again because an answer was lost, it joins the job that still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response

from app import errors
from app.admission import body_hash, valid_idempotency_key
from app.auth import Caller
from app.contract.events import Status
from app.contract.job import Record
from app.contract.params import JobRequest, OutputFormat, ParamError, ParamsRejected
from app.gateway import Gateway, TheCaller, TheGateway
from app.routes.answers import ACCESS, EVENT_STREAM, SUBMIT, TRACEPARENT, described, event_stream, picture_base64
from app.routes.openai_waiting import Tale, refuse_if_abandoned, succeeded, until_over
from app.routes.waiting import applied, left, send, wait_until_over

router = APIRouter(tags=["openai"])
log = structlog.get_logger()

FEWEST_STEPS = 12
"""Guessed, where a request names no steps, for how often it may be worth showing a picture on the way."""

PREFER = {
    "name": "Prefer",
    "description": "`cancel-on-disconnect`: call the job off if you leave before its end; `heartbeat`: 200 at once, "
    "and white space before the body until there is one, which may then be an error",
}


class ImageGeneration(JobRequest):
    """OpenAI's parameters, and every parameter of a job beside them (`extra_body` in the Python client)."""

    n: int | None = Field(default=None, ge=1, le=10, description="The same as num_images")
    size: str | None = Field(
        default=None, pattern=r"^(auto|[1-9][0-9]{1,4}x[1-9][0-9]{1,4})$", description="Width x height; auto: native"
    )
    response_format: Literal["url", "b64_json"] | None = Field(default=None, description="Both, if it is missing")
    output_format: OutputFormat | None = Field(default=None)  # type: ignore[assignment]
    stream: bool | None = Field(default=None, description="Server-sent events instead of one answer")
    partial_images: int | None = Field(default=None, ge=0, le=3, description="Pictures on the way, when streaming")
    background: Literal["auto", "opaque"] | None = Field(default=None, description="Pictures are opaque")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        default=None, description="Without effect: num_inference_steps is what decides"
    )
    style: Literal["vivid", "natural"] | None = Field(default=None, description="Without effect")
    moderation: Literal["auto", "low"] | None = Field(default=None, description="Without effect")
    output_compression: int | None = Field(default=None, ge=0, le=100, description="Without effect")
    user: str | None = Field(default=None, max_length=512, description="Without effect")
    safety_identifier: str | None = Field(default=None, max_length=512, description="Without effect")

    def wish(self) -> JobRequest:
        """The job that is meant. Raises ParamsRejected where two parameters say the same thing."""
        given = self.model_dump(exclude_unset=True, exclude_none=True, include=set(JobRequest.model_fields))
        translated = {"num_images": self.n, **self._sides()}
        for name, value in translated.items():
            if value is not None:
                if name in given:
                    raise ParamsRejected([ParamError(f"/{name}", "said_twice", "is given in OpenAI's words as well")])
                given[name] = value
        if self.stream and self.partial_images:
            steps = self.num_inference_steps or FEWEST_STEPS
            given.setdefault("preview_every", max(1, steps // (2 * self.partial_images + 2)))
        try:
            return JobRequest.model_validate(given)
        except ValidationError:
            # Everything else was measured by this class.
            raise ParamsRejected([ParamError("/size", "out_of_range", "is larger than any picture")]) from None

    def in_their_words(self, error: ParamsRejected) -> ParamsRejected:
        """The same errors, at the parameters that the caller wrote."""
        theirs = {"/num_images": "/n"} if self.n is not None else {}
        theirs |= {"/width": "/size", "/height": "/size"} if self._sides() else {}
        return ParamsRejected([replace(e, pointer=theirs.get(e.pointer, e.pointer)) for e in error.errors])

    def _sides(self) -> dict[str, int | None]:
        if self.size in (None, "auto"):
            return {}
        width, height = map(int, str(self.size).split("x"))
        return {"width": width, "height": height}


class GeneratedImage(BaseModel):
    """One picture; the link needs no key and works for a while (an hour, unless the operator says otherwise)."""

    b64_json: str | None = None
    url: str | None = None
    seed: int = Field(description="Draws this picture again, with num_images 1")


class GeneratedImages(BaseModel):
    """The pictures of one request, and the job that made them."""

    created: int = Field(description="Seconds since 1970")
    data: list[GeneratedImage]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str
    seed: int
    job_id: str = Field(description="GET /v1/jobs/{job_id} has timings and every parameter")
    warnings: list[str]


_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": "The error as OpenAI's clients read it", "content": _ERROR}
    for status in {
        (400 if kind.status == 422 else kind.status)
        for kind in (*ACCESS, *SUBMIT, errors.JobWasCanceled, errors.ModelNotFound)
    }
}


@router.post(
    "/v1/images/generations",
    response_model=GeneratedImages,
    response_model_exclude_none=True,
    summary="Generate pictures and wait for them (OpenAI's API)",
    responses={
        200: {
            "description": "The pictures; with `stream`, events whose `type` is image_generation.partial_image, then "
            "one image_generation.completed a picture",
            "content": EVENT_STREAM,
        },
        **_REFUSALS,
    },
    openapi_extra=described(PREFER, TRACEPARENT),
)
async def generate(
    body: ImageGeneration,
    request: Request,
    gateway: TheGateway,
    caller: TheCaller,
    retry_count: Annotated[
        str | None, Header(alias="x-stainless-retry-count", description="How often the client tried before")
    ] = None,
) -> Any:
    """The official clients work with their base URL set to this service's /v1."""
    wish = body.wish()
    name = _name(wish, caller)
    record = await _joined(gateway, caller, name) if _tried_before(retry_count) else None
    is_own = record is None
    if record is None:
        key = valid_idempotency_key(request.headers.getlist("idempotency-key"))
        traceparent = request.headers.get("traceparent")
        try:
            admitted = await gateway.admission.submit(
                wish, caller, idempotency_key=key, traceparent=traceparent, is_awaited=True
            )
        except ParamsRejected as error:
            raise body.in_their_words(error) from error
        record, is_own = admitted.record, not admitted.replayed
        await gateway.unanswered.note(name, record.id)
    await refuse_if_abandoned(gateway, record)
    if body.stream:
        tale = Tale(gateway, record, name, partial_images=body.partial_images or 0)
        return event_stream(request, _heard(tale, gateway, record, request, is_own=is_own))
    return await send(request, _answer(body, gateway, record, request, name, is_own=is_own), headers=applied(request))


async def _answer(
    body: ImageGeneration, gateway: Gateway, record: Record, request: Request, name: str, *, is_own: bool
) -> Response:
    after = await wait_until_over(gateway, record, request, until_over(gateway, record), is_own=is_own)
    pictures = await _pictures(gateway, succeeded(after), request, body.response_format)
    await gateway.unanswered.answered(name, record.id)
    headers = applied(request)
    return Response(pictures.model_dump_json(exclude_none=True), headers=headers, media_type="application/json")


async def _heard(
    tale: Tale, gateway: Gateway, record: Record, request: Request, *, is_own: bool
) -> AsyncIterator[bytes]:
    """The tale, and what follows if its listener leaves before the end."""
    try:
        async for chunk in tale.tell():
            yield chunk
    except (asyncio.CancelledError, GeneratorExit):
        left(gateway, record, request, is_own=is_own)
        raise


def _name(wish: JobRequest, caller: Caller) -> str:
    """What makes two requests the same: the key they came with and what they wish for."""
    return sha256(f"{caller.tenant} {caller.key_id} {body_hash(wish)}".encode()).hexdigest()


def _tried_before(retry_count: str | None) -> bool:
    return bool(retry_count and retry_count.isdecimal() and retry_count.strip("0"))


async def _joined(gateway: Gateway, caller: Caller, name: str) -> Record | None:
    """The job that an equal request of the same key waits for. Jobs without a future are not joined."""
    job_id = await gateway.unanswered.join(name)
    record = await gateway.store.get(job_id, caller.tenant) if job_id else None
    if record is not None and record.status not in (Status.FAILED, Status.CANCELED):
        log.info("retry joins its job", job_id=record.id)
        return record
    if job_id:
        await gateway.unanswered.answered(name, job_id)
    return None


async def _pictures(
    gateway: Gateway, record: Record, request: Request, form: Literal["url", "b64_json"] | None
) -> GeneratedImages:
    base = gateway.base(request)
    data = []
    for picture in record.images:
        b64 = await picture_base64(gateway, picture) if form != "url" else None
        url = (
            await gateway.viewer.picture_url(picture, base=base, until_ms=record.expires_ms)
            if form != "b64_json"
            else None
        )
        data.append(GeneratedImage(b64_json=b64, url=url, seed=picture.seed))
    return GeneratedImages(
        created=record.created_ms // 1000,
        data=data,
        output_format=record.spec.output_format,
        size=f"{record.spec.width}x{record.spec.height}",
        seed=record.spec.seed,
        job_id=record.id,
        warnings=list(record.warnings),
    )
