"""The web UI's routes that draw: what its clients send and expect, over the same jobs as everything else.

A request waits for its job. Only 200 is success: clients look at nothing else.
"""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from app.a1111 import models
from app.a1111.body import Generation, ImageToImage, TextToImage
from app.a1111.documented import DRAWING, READING, WRITING
from app.a1111.info import info, infotext
from app.a1111.masks import as_read_there
from app.a1111.progress import Progress, call_off, drawn_now, open_jobs
from app.a1111.progress import progress as progress_of
from app.a1111.translation import Meant, translate
from app.a1111.unused import stretched
from app.contract.messages.card import ModelCard
from app.contract.messages.events import Status
from app.contract.messages.job import Record
from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.messages.served import ServedModel
from app.edge.auth import Caller
from app.edge.guard import body_of
from app.jobs.references import decoded
from app.pictures.clean_picture import UnfitPicture
from app.routes.answers import TRACEPARENT, described, picture_bytes
from app.routes.joining import Waiting, admit
from app.routes.long_waits import refuse_if_abandoned, succeeded, until_end
from app.routes.waiting import PREFER, applied, send, wait_for_end
from app.services import Services, TheCaller, TheServices

router = APIRouter(tags=["a1111"])


class Drawn(BaseModel):
    """Pictures, and what is known of them."""

    images: list[str] = Field(description="The files in base64")
    parameters: dict[str, Any] = Field(description="What was understood of the request")
    info: str = Field(
        description="JSON: seeds, texts, model, as the web UI has them; and job_id, warnings, and what was unused"
    )


@router.post(
    "/sdapi/v1/txt2img",
    response_model=Drawn,
    responses=DRAWING,
    openapi_extra=described(PREFER, TRACEPARENT),
)
async def text_to_image(body: TextToImage, request: Request, services: TheServices, caller: TheCaller) -> Response:
    """Draw from words and wait for it (AUTOMATIC1111's API)."""
    return await _draw(body, request, services, caller)


@router.post(
    "/sdapi/v1/img2img",
    response_model=Drawn,
    responses=DRAWING,
    openapi_extra=described(PREFER, TRACEPARENT),
)
async def image_to_image(body: ImageToImage, request: Request, services: TheServices, caller: TheCaller) -> Response:
    """Draw from a picture, or within a mask, and wait for it (AUTOMATIC1111's API)."""
    return await _draw(body, request, services, caller)


@router.get("/sdapi/v1/progress", responses=READING)
async def progress(services: TheServices, caller: TheCaller, skip_current_image: bool = False) -> Progress:
    """How far the newest job is that this key sent in here (AUTOMATIC1111's API)."""
    return await progress_of(services, caller, with_picture=not skip_current_image)


@router.post("/sdapi/v1/interrupt", responses=WRITING)
async def interrupt(services: TheServices, caller: TheCaller) -> dict[str, Any]:
    """Call off all jobs that this key sent in here; nobody else's (AUTOMATIC1111's API)."""
    await call_off(services, caller, await open_jobs(services, caller))
    return {}


@router.post("/sdapi/v1/skip", responses=WRITING)
async def skip(services: TheServices, caller: TheCaller) -> None:
    """Call off the one of them that is drawn now (AUTOMATIC1111's API)."""
    await call_off(services, caller, drawn_now(await open_jobs(services, caller)))


async def _draw(body: Generation, request: Request, services: Services, caller: Caller) -> Response:
    try:
        model = await models.chosen(services, caller, body.override_settings.get("sd_model_checkpoint"))
    except ParamsRejected as error:
        raise models.in_their_words(error) from error
    meant = translate(body, model.card, mask=await _mask(body, model.card, request, services, caller))
    try:
        waiting = await admit(services, meant.parameters(caller), caller, request, waits=True)
    except ParamsRejected as error:
        raise meant.in_their_words(error) from error
    await refuse_if_abandoned(services, waiting.record)
    return await send(request, _answer(body, meant, model, services, waiting, request), headers=applied(request))


async def _mask(body: Generation, card: ModelCard, request: Request, services: Services, caller: Caller) -> str | None:
    """The hash of the request's mask, as it is read here, now an input of the caller's; None if nobody will read it."""
    if not isinstance(body, ImageToImage) or body.mask is None or "mask_image" not in card.takes:
        return None
    text, inverted = body.mask, body.inpainting_mask_invert
    come, most = body_of(request.scope), services.inputs.most_bytes

    try:
        stored, _ = await services.inputs.add(
            lambda: decoded(text, come, most_bytes=most),
            caller.tenant,
            clean=partial(as_read_there, inverted=inverted),
        )
    except UnfitPicture as error:
        raise ParamsRejected([ParamError("/mask", error.code, error.detail)]) from None
    return stored.sha256


async def _answer(
    body: Generation, meant: Meant, model: ServedModel, services: Services, waiting: Waiting, request: Request
) -> Response:
    async with waiting.answering():
        after = await wait_for_end(services, waiting, request, until_end(services, waiting))
        interrupted = after.status is Status.CANCELED and await services.webui.was_interrupted(after.id)
        files = [] if interrupted else await _files(services, succeeded(after))
    images = [base64.b64encode(data).decode() for data in files] if body.send_images else []
    drawn = Drawn(
        images=images,
        parameters=body.parameters(),
        info=info(
            after,
            [await asyncio.to_thread(infotext, data) for data in files],
            model_hash=model.card.sha256[: models.SHORT_HASH],
            more={
                "job_id": after.id,
                "interrupted": interrupted,
                "unused": [*meant.unused, *stretched(body, after.spec)],
                "warnings": [*meant.warnings, *after.warnings],
            },
        ),
    )
    return JSONResponse(drawn.model_dump(), headers=applied(request))


async def _files(services: Services, record: Record) -> list[bytes]:
    return [await picture_bytes(services, picture) for picture in record.images]
