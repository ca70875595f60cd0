"""OpenAI's image API: what the official `openai` clients send and expect, over the same jobs as everything else.

A request waits for its job. Where a client tries again because an answer was lost, it joins the job that still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.contract.messages.job import Record
from app.contract.messages.params import MAX_PROMPT, READABLE, VISIBLE, JobRequest, OutputFormat, ParamsRejected
from app.edge import errors
from app.jobs.translation import Wording, sides
from app.openai.waiting import Tale, refuse_if_abandoned, succeeded, until_over
from app.routes.answers import ACCESS, EVENT_STREAM, SUBMIT, TRACEPARENT, described, event_stream, picture_base64
from app.routes.joining import Waiting, admit
from app.routes.waiting import applied, left, send, wait_until_over
from app.services import Gateway, TheCaller, TheGateway

router = APIRouter(tags=["openai"])

LONGEST_PROMPT = 32_000
"""Characters, as OpenAI has it. Programs that let a language model write their prompts count on it."""

FEWEST_STEPS = 12
"""Guessed, where a request names no steps, for how often it may be worth showing a picture on the way."""

PREFER = {
    "name": "Prefer",
    "description": "`cancel-on-disconnect`: call the job off if you leave before its end; `heartbeat`: 200 at once, "
    "and white space before the body until there is one, which may then be an error",
}


class ImageGeneration(JobRequest):
    """OpenAI's parameters, and every parameter of a job beside them (`extra_body` in the Python client)."""

    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT), READABLE, VISIBLE] = Field(
        description="What the picture shows. Of a very long one the end is cut, which no model reads, with a warning"
    )
    n: int | None = Field(default=None, ge=1, le=10, description="The same as num_images")
    size: str | None = Field(
        default=None, pattern=r"^(auto|[1-9][0-9]{1,4}x[1-9][0-9]{1,4})$", description="Width x height; auto: native"
    )
    response_format: Literal["url", "b64_json"] | None = Field(default=None, description="Both, if it is missing")
    stream: bool | None = Field(default=None, description="Server-sent events instead of one answer")
    partial_images: int | None = Field(default=None, ge=0, le=3, description="Pictures on the way, when streaming")
    background: Literal["auto", "opaque"] | None = Field(default=None, description="Pictures are opaque")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        default=None, description="Without effect: num_inference_steps is what decides"
    )
    style: Literal["vivid", "natural"] | None = Field(default=None, description="Without effect")
    moderation: Literal["auto", "low"] | None = Field(default=None, description="Without effect")
    output_compression: int | None = Field(default=None, ge=0, le=100, description="The same as output_quality")
    user: str | None = Field(default=None, max_length=512, description="Without effect")
    safety_identifier: str | None = Field(default=None, max_length=512, description="Without effect")

    def in_our_words(self) -> Wording:
        """The job that is meant."""
        given = self.model_dump(exclude_unset=True, include=set(JobRequest.model_fields))
        if self.stream and self.partial_images:
            steps = self.num_inference_steps or FEWEST_STEPS
            given.setdefault("preview_every", max(1, steps // (2 * self.partial_images + 2)))
        wording = Wording(given | {"prompt": read_of(self.prompt)})
        if self.n is not None:
            wording.put("n", num_images=self.n)
        if self.size not in (None, "auto"):
            wording.put("size", **sides(str(self.size)))
        if self.output_compression is not None:
            wording.put("output_compression", output_quality=self.output_compression)
        return wording

    def warnings(self) -> list[str]:
        """What to say of the request beside what the job says."""
        kept = len(read_of(self.prompt))
        cut = f"Only the first {kept:,} characters of the prompt were taken, of {len(self.prompt):,}."
        return [cut] if kept < len(self.prompt) else []


def read_of(prompt: str) -> str:
    """The part of a prompt that a job takes, up to the end of a word."""
    if len(prompt) <= MAX_PROMPT:
        return prompt
    cut = prompt[:MAX_PROMPT]
    return cut if prompt[MAX_PROMPT].isspace() else cut.rpartition(" ")[0] or cut


class GeneratedImage(BaseModel):
    """One picture; the link needs no key and works for a while (an hour, unless the operator says otherwise)."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = Field(default=None, description="What was taken of a prompt that was cut")
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
    wording = body.in_our_words()
    try:
        waiting = await admit(gateway, wording.wish(), caller, request, waits=True, again=_tried_before(retry_count))
    except ParamsRejected as error:
        raise wording.in_their_words(error) from error
    await refuse_if_abandoned(gateway, waiting.record)
    if body.stream:
        tale = Tale(gateway, waiting, partial_images=body.partial_images or 0, warnings=body.warnings())
        return event_stream(request, _heard(tale, gateway, waiting, request))
    return await send(request, _answer(body, gateway, waiting, request), headers=applied(request))


async def _answer(body: ImageGeneration, gateway: Gateway, waiting: Waiting, request: Request) -> Response:
    async with waiting.answering():
        after = await wait_until_over(gateway, waiting, request, until_over(gateway, waiting))
        pictures = await _pictures(gateway, succeeded(after), request, body)
    headers = applied(request)
    return Response(pictures.model_dump_json(exclude_none=True), headers=headers, media_type="application/json")


async def _heard(tale: Tale, gateway: Gateway, waiting: Waiting, request: Request) -> AsyncIterator[bytes]:
    """The tale, and what follows if its listener leaves before the end."""
    try:
        async for chunk in tale.tell():
            yield chunk
    except (asyncio.CancelledError, GeneratorExit):
        left(gateway, waiting, request)
        raise


def _tried_before(retry_count: str | None) -> bool:
    return bool(retry_count and retry_count.isdecimal() and retry_count.strip("0"))


async def _pictures(gateway: Gateway, record: Record, request: Request, body: ImageGeneration) -> GeneratedImages:
    base, form, warnings = gateway.base(request), body.response_format, body.warnings()
    revised = record.spec.prompt if warnings else None
    data = []
    for picture in record.images:
        b64 = await picture_base64(gateway, picture) if form != "url" else None
        url = (
            await gateway.viewer.picture_url(picture, base=base, until_ms=record.expires_ms)
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
