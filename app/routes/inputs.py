"""Pictures that come in: send one, look at it, delete it. Jobs refer to them by id."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.contract.messages import patterns
from app.contract.messages.cells import in_cell
from app.contract.messages.input_id import input_id as id_of
from app.contract.messages.input_id import is_input_id
from app.contract.objects.names import EXTENSIONS, input_key
from app.contract.redis.inputs import StoredInput
from app.edge import errors
from app.edge.bodies import FORM, Body, BodyRule
from app.edge.forms import FORM_OVERHEAD, read_form
from app.edge.guard import body_of
from app.jobs.schemas import timestamp
from app.pictures.clean_picture import UnfitPicture
from app.pictures.cleaners import cleaned
from app.pictures.stream import Label
from app.routes.answers import ACCESS, QUEUE, UPLOAD, problems, read_cursor, write_cursor
from app.routes.images import TheConditions, send_bytes
from app.services import TheCaller, TheServices, caller_of, services_of

router = APIRouter(prefix="/v1/inputs", tags=["inputs"])

TYPES = {name: name for name in ("image/png", "image/jpeg", "image/webp")} | {"image/jpg": "image/jpeg"}
"""Media type of a body to what its bytes have to be. The last one does not exist, and is sent often."""

FILE = "file"
"""Name of the part of a form that holds the picture."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **{name: _BINARY for name in TYPES if TYPES[name] == name},
            FORM: {"schema": {"type": "object", "required": [FILE], "properties": {FILE: _BINARY["schema"]}}},
        },
    }
}
_BYTES: dict[str, Any] = {"image/png": {}, "image/jpeg": {}}


def body_rule(most_bytes: int) -> BodyRule:
    """What the body of an upload may be."""
    return BodyRule(dict.fromkeys(TYPES, most_bytes) | {FORM: most_bytes + FORM_OVERHEAD})


class InputView(BaseModel):
    """A picture that came in, as it is kept: upright, in sRGB, without metadata. `sha256` and `bytes` are of that file,
    which is a JPEG of what came as one, else a PNG."""

    id: str
    object: Literal["input"] = "input"
    sha256: str
    bytes: int
    width: int
    height: int
    content_type: str
    created_at: str
    expires_at: str = Field(description="When it goes, unless a job that is not over needs it")

    @classmethod
    def of(cls, stored: StoredInput, cell: str | None) -> InputView:
        return cls(
            id=in_cell(stored.id, cell),
            **stored.model_dump(exclude={"id", "tenant", "created_ms", "expires_ms"}),
            created_at=timestamp(stored.created_ms),
            expires_at=timestamp(stored.expires_ms),
        )


class InputList(BaseModel):
    """A page of the caller's pictures, newest first."""

    object: Literal["list"] = "list"
    data: list[InputView]
    next_cursor: str | None = Field(description="Give it as `cursor` to get the next page; null on the last")


async def _own_input(input_id: str, request: Request) -> StoredInput:
    tenant = caller_of(request).tenant
    if re.fullmatch(patterns.SHA256, input_id):
        # As the records of jobs and pictures name it.
        return await services_of(request).inputs.get(id_of(tenant, input_id), tenant)
    return await services_of(request).own_input(input_id, tenant)


OwnInput = Annotated[StoredInput, Depends(_own_input)]


@router.post(
    "",
    status_code=201,
    response_model=InputView,
    summary="Send a picture in",
    responses={
        200: {"model": InputView, "description": "It was there already; it is kept as long as a new one"},
        **problems(*UPLOAD),
    },
    openapi_extra=_REQUEST,
)
async def upload(request: Request, services: TheServices, caller: TheCaller) -> Response:
    """The body is the file itself, or a form with one part `file`. The same picture again has the same id."""
    body, content_type = body_of(request.scope), request.headers.get("content-type", "")
    if body is None:
        raise _unusable("", UnfitPicture("empty", "holds no bytes"))
    media_type = content_type.partition(";")[0].strip().lower()
    pointer = f"/{FILE}" if media_type == FORM else ""
    try:
        stored, is_new = await services.inputs.add(
            lambda: _file_in(body, content_type, services.inputs.most_bytes) if pointer else body.read(),
            caller.tenant,
            clean=partial(cleaned, declared=TYPES.get(media_type)),
        )
    except UnfitPicture as error:
        raise _unusable(pointer, error) from error
    view, status = InputView.of(stored, services.cells.own), 201 if is_new else 200
    headers = {"Location": services.path(f"/v1/inputs/{view.id}")}
    return Response(view.model_dump_json(), status, headers, media_type="application/json")


@router.get(
    "",
    response_model=InputList,
    summary="List the pictures that you sent in, newest first",
    responses=problems(*ACCESS, errors.InvalidRequest, *QUEUE),
)
async def list_inputs(
    services: TheServices,
    caller: TheCaller,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=128, description="`next_cursor` of the page before")] = None,
) -> InputList:
    """A page at a time; follow `next_cursor` until it is null. One that is sent again keeps its place."""
    before = read_cursor(cursor, is_id=is_input_id)
    found = await services.inputs.page(caller.tenant, limit=limit + 1, before=before)
    more = len(found) > limit
    return InputList(
        data=[InputView.of(stored, services.cells.own) for stored in found[:limit]],
        next_cursor=write_cursor(found[limit - 1]) if more else None,
    )


@router.get(
    "/{input_id}",
    response_model=InputView,
    summary="Ask for a picture that you sent in",
    responses=problems(*ACCESS, errors.InputNotFound, *QUEUE),
)
async def get_input(picture: OwnInput, services: TheServices) -> InputView:
    return InputView.of(picture, services.cells.own)


@router.get(
    "/{input_id}/content",
    response_class=Response,
    summary="Its file, as it is kept",
    responses={
        200: {"description": "The picture", "content": _BYTES},
        206: {"description": "The part that Range asked for", "content": _BYTES},
        304: {"description": "The picture with the ETag in If-None-Match is still the one"},
        **problems(
            *ACCESS,
            errors.InputNotFound,
            errors.PictureNotFound,
            errors.RangeNotSatisfiable,
            *QUEUE,
            errors.PicturesUnavailable,
        ),
    },
)
async def get_content(picture: OwnInput, services: TheServices, conditions: TheConditions) -> Response:
    """What a worker draws from. It needs the key: no link leads here."""
    key = input_key(picture.tenant, picture.sha256)
    extension = EXTENSIONS[picture.content_type.removeprefix("image/")]
    label = Label(f"{picture.id}.{extension}", picture.content_type)
    return await send_bytes(lambda part: services.pictures.open_input(key, label, byte_range=part), conditions)


@router.delete(
    "/{input_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a picture that you sent in",
    responses=problems(*ACCESS, errors.InputNotFound, errors.InputInUse, *QUEUE),
)
async def delete_input(picture: OwnInput, services: TheServices) -> Response:
    """Jobs that were drawn from it stay, and cannot be drawn again."""
    await services.inputs.remove(picture)
    return Response(status_code=204)


def _file_in(body: Body, content_type: str, most_bytes: int) -> bytes:
    form = read_form(body.read(), content_type)
    files = form.files_of(FILE)
    if len(files) != 1 or len(form.files) != 1 or form.fields:
        raise UnfitPicture("not_one_file", f"must be the only part of the form, and a file: `{FILE}`")
    if len(files[0]) > most_bytes:
        raise UnfitPicture("too_large", f"has more than {most_bytes} bytes")
    return files[0]


def _unusable(pointer: str, error: UnfitPicture) -> errors.PictureUnusable:
    fault = {"pointer": pointer, "code": error.code, "detail": error.detail}
    return errors.PictureUnusable(f"The picture {error.detail}.", errors=[fault])
