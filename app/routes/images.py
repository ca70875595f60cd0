"""Pictures: to their owner by job and number, to everybody by a signed link."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.utils import format_datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from app.contract.messages.job import Picture, Record
from app.contract.objects.names import CACHE_CONTROL, content_disposition
from app.edge import errors
from app.edge.head import is_head
from app.pictures.errors import PictureStoreError
from app.pictures.stream import PictureStream
from app.routes.answers import ACCESS, QUEUE, etag_matches, problems
from app.services import OwnRecord, Services, TheServices

router = APIRouter(tags=["images"])
log = structlog.get_logger()

_VECTORS: dict[str, Any] = {"application/octet-stream": {}}
_BYTES: dict[str, Any] = {"image/png": {}, "image/jpeg": {}, "image/webp": {}}
_FOUND: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture", "content": _BYTES},
    206: {"description": "The part that Range asked for", "content": _BYTES},
    304: {"description": "The picture with the ETag in If-None-Match is still the one"},
}

OF_A_JOB: dict[int | str, dict[str, Any]] = {
    **_FOUND,
    302: {"description": "Where the store signs links itself: the picture is there for a while"},
    **problems(
        *ACCESS,
        errors.JobNotFound,
        errors.PictureNotFound,
        errors.RangeNotSatisfiable,
        *QUEUE,
        errors.PicturesUnavailable,
    ),
}


@dataclass(frozen=True)
class Conditions:
    """What a request says of the answer: its head only, a part, or nothing that it has already."""

    is_head: bool
    byte_range: str | None
    if_range: str | None
    if_none_match: str | None


def conditions(
    request: Request,
    byte_range: Annotated[str | None, Header(alias="Range", description="bytes=first-last")] = None,
    if_none_match: Annotated[str | None, Header(description="ETag of an earlier answer")] = None,
) -> Conditions:
    only_head = is_head(request)
    return Conditions(only_head, None if only_head else byte_range, request.headers.get("if-range"), if_none_match)


TheConditions = Annotated[Conditions, Depends(conditions)]


@router.get(
    "/v1/jobs/{job_id}/images/{index}",
    response_class=Response,
    summary="One picture of a job",
    responses=OF_A_JOB,
)
async def job_image(
    record: OwnRecord,
    index: str,
    request: Request,
    services: TheServices,
    conditions: TheConditions,
) -> Response:
    """A redirect to the store where it can sign links, otherwise the bytes."""
    return await lead_to(services, picture_of(record, index).key, request, conditions)


@router.get(
    "/v1/jobs/{job_id}/images/{index}/previews",
    response_class=Response,
    summary="How one picture of a job emerged",
    responses=OF_A_JOB,
)
async def job_previews(
    record: OwnRecord,
    index: str,
    request: Request,
    services: TheServices,
    conditions: TheConditions,
) -> Response:
    """The sheet of previews that `images[].previews` describes, for jobs with `keep_previews`."""
    sheet = picture_of(record, index).previews
    if sheet is None:
        raise errors.PictureNotFound("The job kept no previews: ask for keep_previews with preview_every.")
    return await lead_to(services, sheet.key, request, conditions)


@router.get(
    "/v1/jobs/{job_id}/images/{index}/embedding",
    response_class=Response,
    summary="The image embedding that one picture of a job was drawn from",
    responses={**OF_A_JOB, 200: {"description": "The vectors, as safetensors", "content": _VECTORS}},
)
async def job_embedding(
    record: OwnRecord,
    index: str,
    request: Request,
    services: TheServices,
    conditions: TheConditions,
) -> Response:
    """Float32 `image_embedding` [D], as `image_embedding.vector` of another job takes it, and those of the texts it is
    compared with. For models whose `tasks` or `takes` tell of image embeddings."""
    embedding = picture_of(record, index).embedding
    if embedding is None:
        raise errors.PictureNotFound("This picture was drawn from no image embedding: its model reads texts alone.")
    return await lead_to(services, embedding.file.key, request, conditions)


@router.get(
    "/pictures/{key:path}",
    response_class=Response,
    summary="A picture by its signed link",
    responses={
        **_FOUND,
        **problems(
            errors.LinkInvalid,
            errors.LinkExpired,
            errors.PictureNotFound,
            errors.OtherCell,
            errors.RangeNotSatisfiable,
            errors.InvalidRequest,
            errors.InternalError,
            errors.PicturesUnavailable,
        ),
    },
)
async def signed_picture(
    key: str,
    services: TheServices,
    conditions: TheConditions,
    expires: Annotated[str, Query(max_length=16)] = "",
    signature: Annotated[str, Query(max_length=128)] = "",
) -> Response:
    """What `images[].url` of a job leads to where the store does not serve pictures itself. Needs no key."""
    services.pictures.links.verify(key, expires=expires, signature=signature, now=services.viewer.now())
    return await send_picture(services, key, conditions)


def picture_of(record: Record, index: str) -> Picture:
    """Raises PictureNotFound."""
    picture = next((picture for picture in record.images if str(picture.index) == index), None)
    if picture is None:
        raise errors.PictureNotFound(f"The job is {record.status.value} and has {len(record.images)} pictures.")
    return picture


async def lead_to(services: Services, key: str, request: Request, conditions: Conditions) -> Response:
    """To the store where it can sign links, otherwise the bytes."""
    if services.pictures.can_sign:
        return RedirectResponse(await services.viewer.url(key, base=services.base(request)), 302)
    return await send_picture(services, key, conditions)


async def send_picture(services: Services, key: str, conditions: Conditions) -> Response:
    """The bytes of a picture, or of a file beside one."""
    return await send_bytes(lambda part: services.pictures.open(key, byte_range=part), conditions)


async def send_bytes(open_part: Callable[[str | None], Awaitable[PictureStream]], conditions: Conditions) -> Response:
    """The answer with a file's bytes. `open_part` opens the part that a Range header asks for, or all for None."""
    stream = await open_part(conditions.byte_range)
    if stream.partial and conditions.if_range not in (None, stream.etag):
        stream.close()
        stream = await open_part(None)
    headers = {
        "ETag": stream.etag,
        "Last-Modified": format_datetime(stream.last_modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE_CONTROL,
        "Content-Disposition": content_disposition(stream.file_name),
    }
    if etag_matches(conditions.if_none_match, stream.etag):
        stream.close()
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(stream.length)
    if conditions.is_head:
        stream.close()
        return Response(headers=headers, media_type=stream.content_type)
    if stream.partial:
        headers["Content-Range"] = stream.content_range
    return StreamingResponse(_chunks(stream), 206 if stream.partial else 200, headers, media_type=stream.content_type)


async def _chunks(stream: PictureStream) -> AsyncIterator[bytes]:
    try:
        async for chunk in stream.chunks:
            yield chunk
    except PictureStoreError as error:
        # The head is sent: only a connection cut short can still say that something is missing.
        log.warning("picture broke off", reason=str(error))
        raise
    finally:
        stream.close()
