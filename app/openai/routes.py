"""OpenAI's image API: what the official `openai` clients send and expect, over the same jobs as everything else.

A request waits for its job. Where a client tries again because an answer was lost, it joins the job that still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from app.contract.messages.fit_points import varies
from app.contract.messages.job import Record
from app.contract.messages.params import ParamError, ParamsRejected
from app.edge import errors
from app.edge.auth import Caller
from app.jobs.admission import valid_idempotency_key
from app.jobs.translation import Wording
from app.openai.pictures import AS_POINT, IMAGE, PictureForm, form_of, in_their_words
from app.openai.referred import ReferredPictures, in_json, is_json
from app.openai.schemas import GeneratedImage, GeneratedImages, ImageEdit, ImageGeneration, ImageRequest, ImageVariation
from app.openai.stream import ImageStream
from app.routes.answers import ACCESS, EVENT_STREAM, SUBMIT, TRACEPARENT, described, event_stream, picture_base64
from app.routes.joining import Waiting, admit
from app.routes.long_waits import refuse_if_abandoned, succeeded, until_end
from app.routes.waiting import PREFER, applied, left, send, wait_for_end
from app.services import Services, TheCaller, TheServices

router = APIRouter(tags=["openai"])

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": "The error as OpenAI's clients read it", "content": _ERROR}
    for status in {
        (400 if kind.status == 422 else kind.status)
        for kind in (
            *ACCESS,
            *SUBMIT,
            errors.MalformedForm,
            errors.TooManyUploads,
            errors.JobWasCanceled,
            errors.ModelNotFound,
        )
    }
}


RetryCount = Annotated[
    str | None, Header(alias="x-stainless-retry-count", description="How often the client tried before")
]


def _documented(kind: str) -> dict[str, Any]:
    """What the routes that draw have in common. `kind` is what the types of a stream's events begin with."""
    about = (
        f"The pictures; with `stream`, events whose `type` is {kind}.partial_image, then one {kind}.completed a picture"
    )
    return {
        "response_model": GeneratedImages,
        "response_model_exclude_none": True,
        "responses": {200: {"description": about, "content": EVENT_STREAM}, **REFUSALS},
    }


@router.post(
    "/v1/images/generations",
    summary="Generate pictures and wait for them (OpenAI's API)",
    openapi_extra=described(PREFER, TRACEPARENT),
    **_documented("image_generation"),
)
async def generate(
    body: ImageGeneration, request: Request, services: TheServices, caller: TheCaller, retry_count: RetryCount = None
) -> Any:
    """The official clients work with their base URL set to this service's /v1."""
    drawing = _Drawing(body, body.in_our_words(), "image_generation")
    return await _draw(drawing, request, services, caller, retry_count)


@router.post(
    "/v1/images/edits",
    summary="Draw a picture anew, or the part of it that a mask leaves open, and wait for it (OpenAI's API)",
    openapi_extra=described(PREFER, TRACEPARENT) | form_of(ImageEdit, other=in_json()),
    **_documented("image_edit"),
)
async def edit(request: Request, services: TheServices, caller: TheCaller, retry_count: RetryCount = None) -> Any:
    """`image` is the picture to begin with. Where `mask` is transparent it is repainted; without a mask, all of it."""
    body: ImageEdit
    pictures: PictureForm | ReferredPictures
    if is_json(request):
        body, pictures = await ReferredPictures.read(request)
    else:
        pictures = PictureForm.of(request)
        body = await pictures.read(ImageEdit)
    drawing = _Drawing(body, body.in_our_words(), "image_edit", pictures)
    return await _draw(drawing, request, services, caller, retry_count)


@router.post(
    "/v1/images/variations",
    summary="Draw pictures like one, and wait for them (OpenAI's API)",
    openapi_extra=described(PREFER, TRACEPARENT) | form_of(ImageVariation, files=(IMAGE,)),
    **_documented("image_edit"),
)
async def vary(request: Request, services: TheServices, caller: TheCaller, retry_count: RetryCount = None) -> Any:
    """By the picture's embedding, where the model draws from that (`tasks` has image-variation). Else by the words that
    the picture was drawn with, if its file has Darkroom's record; by `prompt`, if not."""
    form = PictureForm.of(request, (IMAGE,))
    body = await form.read(ImageVariation)
    if await _draws_from_points(body.model, request, services, caller):
        form.places = AS_POINT
        drawing = _Drawing(body, body.in_our_words(), "image_edit", form)
        return await _draw(drawing, request, services, caller, retry_count)
    words = {"strength": body.strength} | (await form.words() if body.prompt is None else {})
    body = body.model_validate(words | body.model_dump(exclude_unset=True))
    if body.prompt is None:
        raise ParamsRejected([ParamError("/prompt", "missing", "is needed: this picture's file does not tell its own")])
    drawing = _Drawing(body, body.in_our_words(), "image_edit", form)
    return await _draw(drawing, request, services, caller, retry_count)


async def _draws_from_points(model: str | None, request: Request, services: Services, caller: Caller) -> bool:
    """A variation that a key has brought in was meant as it was drawn, whatever has become of the model."""
    key = valid_idempotency_key(request.headers.getlist("idempotency-key"))
    if key is not None and (job := await services.admission.brought_in(key, caller)) is not None:
        return job.spec.image_embedding is not None
    return varies((await services.models.choose(model)).card)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What one request asks for."""

    body: ImageRequest
    wording: Wording
    kind: str
    """What the types of its events begin with."""
    pictures: PictureForm | ReferredPictures | None = None


async def _draw(
    drawing: _Drawing, request: Request, services: Services, caller: Caller, retry_count: str | None
) -> Any:
    body, wording = drawing.body, drawing.wording
    try:
        if drawing.pictures is not None:
            key = valid_idempotency_key(request.headers.getlist("idempotency-key"))
            await drawing.pictures.keep(wording, body.model, services, caller, key)
        waiting = await admit(
            services, wording.parameters(), caller, request, waits=True, again=tried_before(retry_count)
        )
    except ParamsRejected as error:
        raise in_their_words(wording, error) from error
    await refuse_if_abandoned(services, waiting.record)
    if body.stream:
        stream = ImageStream(
            services,
            waiting,
            kind=drawing.kind,
            partial_images=body.partial_images or 0,
            warnings=body.warnings(),
        )
        return event_stream(request, _until_left(stream, services, waiting, request))
    return await send(request, _answer(body, services, waiting, request), headers=applied(request))


async def _answer(body: ImageRequest, services: Services, waiting: Waiting, request: Request) -> Response:
    async with waiting.answering():
        after = await wait_for_end(services, waiting, request, until_end(services, waiting))
        pictures = await _pictures(services, succeeded(after), request, body)
    headers = applied(request)
    return Response(pictures.model_dump_json(exclude_none=True), headers=headers, media_type="application/json")


async def _until_left(
    stream: ImageStream, services: Services, waiting: Waiting, request: Request
) -> AsyncIterator[bytes]:
    """The stream, and what follows if its reader leaves before the end."""
    try:
        async for chunk in stream.events():
            yield chunk
    except (asyncio.CancelledError, GeneratorExit):
        left(services, waiting, request)
        raise


def tried_before(retry_count: str | None) -> bool:
    return bool(retry_count and retry_count.isdecimal() and retry_count.strip("0"))


async def _pictures(services: Services, record: Record, request: Request, body: ImageRequest) -> GeneratedImages:
    base, form, warnings = services.base(request), body.answered_as(), body.warnings()
    revised = record.spec.prompt if warnings else None
    data = []
    for picture in record.images:
        b64 = await picture_base64(services, picture) if form != "url" else None
        url = (
            await services.viewer.picture_url(picture, base=base, until_ms=record.expires_ms)
            if form != "b64_json"
            else None
        )
        data.append(GeneratedImage(b64_json=b64, url=url, revised_prompt=revised, seed=picture.seed))
    return GeneratedImages(
        created=record.created_ms // 1000,
        data=data,
        output_format=record.spec.output_format,
        size=f"{record.spec.width}x{record.spec.height}",
        seed=record.spec.seed,
        job_id=record.id,
        warnings=[*warnings, *record.warnings],
    )
