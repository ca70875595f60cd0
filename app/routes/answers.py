"""What the doors share: how a job is written into an answer, how long one may wait, which problems are documented."""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from app.contract.messages.job import Picture, Record, is_job_id
from app.contract.redis.inputs import StoredInput
from app.contract.redis.store import LONGEST_BLOCK
from app.edge import errors
from app.edge.errors import InvalidRequest, JobNotFound
from app.edge.head import is_head
from app.edge.problem import MEDIA_TYPE, Problem
from app.services import Services

LONGEST_WAIT = 60
"""Seconds one request may wait: below the idle timeout of the usual proxies."""

ACCESS = (
    errors.InvalidHeader,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.WrongHost,
    errors.OtherCell,
    errors.RateLimited,
    errors.HeadTooLarge,
)
BODY = (errors.MalformedJson, errors.BodyTooSlow, errors.BodyTooLarge, errors.UnsupportedMediaType)
QUEUE = (errors.InternalError, errors.QueueUnavailable)
UPLOAD = (
    *ACCESS,
    errors.TooManyInputs,
    errors.MalformedForm,
    errors.BodyTooSlow,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.PictureUnusable,
    *QUEUE,
    errors.QueueStorageFull,
    errors.TooManyUploads,
    errors.Unavailable,
    errors.PicturesFull,
    errors.PicturesUnavailable,
)
SUBMIT = (
    *BODY,
    errors.TooManyInputs,
    errors.InvalidRequest,
    errors.QueueFull,
    errors.TooManyJobs,
    *QUEUE,
    errors.QueueStorageFull,
    errors.NoModelYet,
    errors.ModelPaused,
    errors.Unavailable,
    errors.PicturesFull,
    errors.PicturesUnavailable,
)
"""What every way of sending a job in can answer."""

TRACEPARENT = {"name": "traceparent", "description": "W3C trace context, kept with the job"}

EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "One event, as the HTML standard names its parts",
            "properties": {
                "event": {"type": "string"},
                "data": {"type": "string"},
                "id": {"type": "string"},
                "retry": {"type": "integer", "minimum": 0},
            },
        }
    }
}

_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,9})(?![0-9.])", re.IGNORECASE)
_CURSOR = re.compile(r"([0-9]{1,16})\.([a-z]{1,8}_[0-9a-z]{24})")
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}


def event_stream(request: Request, events: AsyncIterator[bytes]) -> Response:
    """Server-sent events that no proxy may keep or hold back. For a HEAD only their head: nothing is opened."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if is_head(request):
        return Response(headers=headers, media_type="text/event-stream")
    return EventSourceResponse(events, headers=headers)


def described(*headers: dict[str, Any]) -> dict[str, Any]:
    """For `openapi_extra`: request headers that are described, and read by hand. As parameters of the function they
    would cost a twentieth of a submit; and of a header that is there twice, FastAPI shows one."""
    return {"parameters": [{"in": "header", "schema": {"type": "string"}, **header} for header in headers]}


@dataclass(frozen=True, slots=True)
class RenderedJob:
    """A job as an answer carries it."""

    record: Record
    body: str
    etag: str
    headers: dict[str, str]


async def render(services: Services, record: Record, request: Request) -> RenderedJob:
    """Body and headers: ETag always, Retry-After while the job is not over."""
    view = await services.view(record, request)
    body = view.model_dump_json()
    etag = services.viewer.etag(view, record, body)
    headers = {"ETag": etag}
    if not record.status.is_terminal:
        headers["Retry-After"] = str(await services.viewer.retry_after(view))
    return RenderedJob(record, body, etag, headers)


async def next_change(services: Services, before: RenderedJob, request: Request, *, seconds: float) -> RenderedJob:
    """The job as soon as it differs from `before`, or when the time is up. JobNotFound if it is deleted meanwhile."""
    ends, record = time.monotonic() + seconds, before.record
    async with services.feed.follow({record.id: await services.jobs.last_event_id(record.id)}) as following:
        while True:
            record_now = await services.jobs.get(record.id, record.tenant)
            if record_now is None:
                raise JobNotFound
            rendered = await render(services, record_now, request)
            left = ends - time.monotonic()
            if rendered.etag != before.etag or left <= 0:
                return rendered
            # A place in the queue changes without an event, so silence is looked into as well.
            if await following.next(min(left, LONGEST_BLOCK)) is None:
                return rendered


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison, as RFC 9110 asks of If-None-Match."""
    wanted = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return "*" in wanted or etag.removeprefix("W/") in wanted


def wait_wanted(prefer: list[str], *, otherwise: int | None = None) -> int | None:
    """Seconds of `Prefer: wait=N`, at most LONGEST_WAIT; None for 0. As RFC 7240 has it, what is not understood is
    ignored: then it is as many as `otherwise`."""
    found = _PREFER_WAIT.search(",".join(prefer))
    return min(int(found[1]), LONGEST_WAIT) or None if found else otherwise


async def picture_bytes(services: Services, picture: Picture) -> bytes:
    """The file of a finished picture. Raises storage.PictureStoreError."""
    stream = await services.pictures.open(picture.key)
    try:
        return b"".join([chunk async for chunk in stream.chunks])
    finally:
        stream.close()


async def picture_base64(services: Services, picture: Picture) -> str:
    """The same in base64."""
    return base64.b64encode(await picture_bytes(services, picture)).decode()


def write_cursor(last: Record | StoredInput) -> str:
    """The place after this one in the list."""
    return write_cursor_at(last.created_ms, last.id)


def write_cursor_at(moment_ms: int, entry_id: str) -> str:
    """The same, of a list by other moments than those of creation."""
    return base64.urlsafe_b64encode(f"{moment_ms}.{entry_id}".encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *, is_id: Callable[[str], bool] = is_job_id) -> tuple[int, str] | None:
    """What `write_cursor` wrote, for a list of what such ids have. Raises InvalidRequest for anything else."""
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    found = _CURSOR.fullmatch(text)
    if found is None or not is_id(found[2]):
        detail = "is not the next_cursor of an earlier answer"
        error = {"parameter": "cursor", "code": "cursor_unknown", "detail": detail}
        raise InvalidRequest("The cursor cannot be used; leave it out to start at the newest.", errors=[error])
    return int(found[1]), found[2]


def problems(*kinds: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: each problem under its status, several of one status in one description."""
    documented: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        known = documented.setdefault(kind.status, {"description": "", "content": _PROBLEM})
        known["description"] = ", ".join(filter(None, (known["description"], f"`{kind.slug}`: {kind.title}")))
    return documented
