"""Requests that wait for a job's end: what becomes of the job when the caller leaves, and signs of life meanwhile.

Both are asked for with Prefer (RFC 7240). Without, a job goes on when its caller has left, and nothing is sent before
the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

import redis
import structlog
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.contract.messages.job import Record
from app.edge.error_handler import answer_to
from app.edge.waiting import ClientGone, end, wait_for
from app.routes.answers import render
from app.routes.joining import Waiting
from app.services import Services

log = structlog.get_logger()

CANCEL: Final = "cancel-on-disconnect"
HEARTBEAT: Final = "heartbeat"

JSON: Final = "application/json"

PREFER: Final = {
    "name": "Prefer",
    "description": "`cancel-on-disconnect`: call the job off if you leave before its end; `heartbeat`: 200 at once, "
    "and white space before the body until there is one, which may then be an error",
}
"""For the OpenAPI of routes that always wait."""

HEARTBEAT_SECONDS = 10.0
"""Proxies give up an answer of which nothing has come for 30 s or more."""

_leaving: set[asyncio.Task[None]] = set()
"""What is still to be said for callers who have left. Somebody must hold a task."""


def prefers(request: Request, word: str) -> bool:
    """Whether `Prefer` has the word."""
    given = ",".join(request.headers.getlist("prefer")).lower()
    return word in (each.partition(";")[0].strip() for each in given.split(","))


def applied(request: Request, *, seconds: float | None = None) -> dict[str, str]:
    """Preference-Applied, if there is anything to say."""
    said = [f"wait={seconds}"] if seconds else []
    said += [word for word in (CANCEL, HEARTBEAT) if prefers(request, word)]
    return {"Preference-Applied": ", ".join(said)} if said else {}


async def wait_for_end(
    services: Services, waiting: Waiting, request: Request, work: Coroutine[Any, Any, Record]
) -> Record:
    """The job as `work` brings it, or as it stood when the service closes. Raises ClientGone."""
    try:
        return await wait_for(request, work, closing=services.closing) or waiting.record
    except (ClientGone, asyncio.CancelledError):
        left(services, waiting, request)
        raise


def left(services: Services, waiting: Waiting, request: Request) -> None:
    """The caller has gone: an equal request may join the job. Or it is called off, if that was asked for."""
    # Only by who brought it in, and only if nobody else waits for it.
    takes_along = waiting.is_own and prefers(request, CANCEL)
    task = asyncio.ensure_future(_call_off(services, waiting) if takes_along else waiting.leave())
    _leaving.add(task)
    task.add_done_callback(_leaving.discard)


async def _call_off(services: Services, waiting: Waiting) -> None:
    record = waiting.record
    try:
        outcome = await services.jobs.cancel(record.id, record.tenant) if await waiting.give_up() else "joined"
    except redis.RedisError as error:
        log.warning("caller left, and the job could not be called off", job_id=record.id, error=type(error).__name__)
    else:
        log.info("caller left, job called off", job_id=record.id, outcome=outcome)


async def answer_in_time(
    services: Services,
    waiting: Waiting,
    request: Request,
    *,
    seconds: float | None,
    whole: Callable[[Record], BaseModel] | None = None,
    status: int = 202,
) -> Response:
    """The job, 202, at once or as it stands after `seconds`; if it is over, what `whole` makes of it, else the job
    again, 200. Location leads to it in any case. `status` is sent ahead of an answer with a heartbeat.

    Raises what `whole` does, and ClientGone.
    """
    headers = {"Location": services.path(f"/v1/jobs/{waiting.record.id}")}
    if not waiting.is_own:
        headers["Idempotency-Replayed"] = "true"
    if seconds is None:
        rendered = await render(services, waiting.record, request)
        return Response(rendered.body, 202, rendered.headers | headers, media_type=JSON)
    headers |= applied(request, seconds=seconds)

    async def answer() -> Response:
        end = services.feed.wait_for_end(waiting.record, seconds=seconds)
        async with waiting.answering():
            after = await wait_for_end(services, waiting, request, end)
            is_over = after.status.is_terminal
            if is_over and whole is not None:
                return Response(whole(after).model_dump_json(), headers=headers, media_type=JSON)
            rendered = await render(services, after, request)
        return Response(rendered.body, 200 if is_over else 202, rendered.headers | headers, media_type=JSON)

    return await send(request, answer(), status=status, headers=headers)


async def send(
    request: Request, answer: Coroutine[Any, Any, Response], *, status: int = 200, headers: Mapping[str, str]
) -> Response:
    """The answer once it is there; with `Prefer: heartbeat` at once, and white space until then.

    The head is sent before the outcome is known, so that `status` stands for any: the body says how it went.
    """
    if not prefers(request, HEARTBEAT):
        return await answer
    now = {**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    # Begun here, and not with the first beat: whoever leaves before that is noticed as well.
    task = asyncio.ensure_future(answer)
    return StreamingResponse(_beats(request, task), status, now, media_type=JSON)


async def _beats(request: Request, task: asyncio.Future[Response]) -> AsyncIterator[bytes]:
    try:
        while not task.done():
            # JSON may begin with white space (RFC 8259, 2).
            yield b" "
            await asyncio.wait((task,), timeout=HEARTBEAT_SECONDS)
        yield _body(task, request)
    finally:
        await end(task)


def _body(task: asyncio.Future[Response], request: Request) -> bytes:
    try:
        return bytes(task.result().body)
    except ClientGone:
        return b""
    except Exception as error:
        log.info("an answer with a heartbeat is an error", error=type(error).__name__)
        return bytes(answer_to(error, request).body)
