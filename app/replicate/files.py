"""Replicate's files: what its clients upload before they ask for a prediction, each one an input as POST /v1/inputs has
it. A client given a file handle sends it here, and then the link that it was answered.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.contract.messages.cells import in_cell
from app.contract.messages.input_id import is_input_id
from app.contract.redis.inputs import StoredInput
from app.edge import errors
from app.edge.bodies import FORM, Body, BodyRule
from app.edge.forms import FORM_OVERHEAD, read_form
from app.edge.guard import body_of
from app.jobs.schemas import timestamp
from app.pictures.clean_picture import UnfitPicture
from app.routes.answers import ACCESS, QUEUE, UPLOAD, problems, read_cursor, write_cursor
from app.services import Services, TheCaller, TheServices, caller_of, services_of

router = APIRouter(prefix="/v1/files", tags=["replicate"])

PAGE = 100

CONTENT = "content"
"""Name of the part of a form that holds the file."""

METADATA = "metadata"
"""Name of what the client for JavaScript sends beside it: JSON, as a file of its own. It is not kept."""

_BINARY = {"type": "string", "format": "binary"}
_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {FORM: {"schema": {"type": "object", "required": [CONTENT], "properties": {CONTENT: _BINARY}}}},
    }
}


def body_rule(most_bytes: int) -> BodyRule:
    """What the body of an upload may be."""
    return BodyRule({FORM: most_bytes + FORM_OVERHEAD})


class ReplicateFile(BaseModel):
    """A picture that came in, as Replicate's clients know a file. Its name and notes are not kept."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, str]
    created_at: str
    expires_at: str
    urls: dict[str, str]

    @classmethod
    def of(cls, stored: StoredInput, services: Services, request: Request) -> ReplicateFile:
        """As the one who sent the request may see it."""
        file_id = in_cell(stored.id, services.cells.own)
        return cls(
            id=file_id,
            name=file_id,
            content_type=stored.content_type,
            size=stored.bytes,
            etag=stored.sha256,
            checksums={"sha256": stored.sha256},
            metadata={},
            created_at=timestamp(stored.created_ms),
            expires_at=timestamp(stored.expires_ms),
            urls={"get": f"{services.base(request)}/v1/files/{file_id}"},
        )


class FilePage(BaseModel):
    """A page of the caller's files, newest first."""

    previous: str | None = None
    next: str | None
    results: list[ReplicateFile]


async def _own_file(file_id: str, request: Request) -> StoredInput:
    return await services_of(request).own_input(file_id, caller_of(request).tenant)


OwnFile = Annotated[StoredInput, Depends(_own_file)]


@router.post(
    "",
    status_code=201,
    response_model=ReplicateFile,
    responses=problems(*UPLOAD),
    openapi_extra=_REQUEST,
)
async def create_file(request: Request, services: TheServices, caller: TheCaller) -> ReplicateFile:
    """Send a picture in, for predictions to name by its link (Replicate's API)."""
    body, content_type = body_of(request.scope), request.headers.get("content-type", "")
    most = services.inputs.most_bytes
    try:
        stored, _ = await services.inputs.add(lambda: _file_in(body, content_type, most), caller.tenant)
    except UnfitPicture as error:
        fault = {"pointer": f"/{CONTENT}", "code": error.code, "detail": error.detail}
        raise errors.PictureUnusable(f"The picture {error.detail}.", errors=[fault]) from error
    return ReplicateFile.of(stored, services, request)


@router.get("", response_model=FilePage, responses=problems(*ACCESS, errors.InvalidRequest, *QUEUE))
async def list_files(
    request: Request,
    services: TheServices,
    caller: TheCaller,
    cursor: Annotated[str | None, Query(max_length=128, description="Part of `next` of the page before")] = None,
) -> FilePage:
    """The pictures that you sent in, newest first (Replicate's API)."""
    before = read_cursor(cursor, is_id=is_input_id)
    found = await services.inputs.page(caller.tenant, limit=PAGE + 1, before=before)
    more = len(found) > PAGE
    return FilePage(
        next=f"{services.base(request)}/v1/files?cursor={write_cursor(found[PAGE - 1])}" if more else None,
        results=[ReplicateFile.of(stored, services, request) for stored in found[:PAGE]],
    )


@router.get("/{file_id}", response_model=ReplicateFile, responses=problems(*ACCESS, errors.InputNotFound, *QUEUE))
async def get_file(picture: OwnFile, request: Request, services: TheServices) -> ReplicateFile:
    """A picture that you sent in (Replicate's API)."""
    return ReplicateFile.of(picture, services, request)


@router.delete(
    "/{file_id}",
    status_code=204,
    response_class=Response,
    responses=problems(*ACCESS, errors.InputNotFound, errors.InputInUse, *QUEUE),
)
async def delete_file(picture: OwnFile, services: TheServices) -> Response:
    """Delete a picture that you sent in (Replicate's API)."""
    await services.inputs.remove(picture)
    return Response(status_code=204)


def _file_in(body: Body | None, content_type: str, most_bytes: int) -> bytes:
    """What is beside the file, as its type and notes, is not read."""
    form = read_form(body.read() if body else b"", content_type)
    files = form.files_of(CONTENT)
    if len(files) != 1 or len(form.files) != 1 + len(form.files_of(METADATA)):
        raise UnfitPicture("not_one_file", f"must be the only file of the form: `{CONTENT}`")
    if len(files[0]) > most_bytes:
        raise UnfitPicture("too_large", f"has more than {most_bytes} bytes")
    return files[0]
