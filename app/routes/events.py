"""The story of one job as server-sent events: how it stands now, then what happens, until it is over.

An `id:` is the id of the event in Redis, so a stream goes on where it broke off, at whichever gateway.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import redis
import structlog
from fastapi import APIRouter, Header, Request
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from starlette.responses import Response

from app import errors
from app.contract.events import FINAL_EVENTS, Event
from app.contract.job import Record
from app.gateway import Gateway, OwnRecord, TheCaller, TheGateway
from app.routes.answers import ACCESS, EVENT_STREAM, QUEUE, event_stream, problems
from app.stream_tokens import TOKEN_SECONDS

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
log = structlog.get_logger()

HEARTBEAT_SECONDS = 15.0
"""Proxies cut a silent connection after 30 s or more. Jittered, so that streams do not all beat at once."""

RETRY_MS = 1_000
"""How long an EventSource waits before it connects again."""

FIRST = "job"
"""Name of the event that carries the present state. The others are named as in `Event`."""

_STREAM_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,9})")


@router.get(
    "/{job_id}/events",
    response_class=Response,
    summary="Follow a job",
    responses={
        200: {
            "description": "`job` with the present state, then `job.started`, `job.progress`, `job.preview` (of "
            "picture `index`; `jpeg` is base64; only the newest is kept), `job.restarted` and one of `job.succeeded`, "
            "`job.failed`, `job.canceled`. `job` and the last one carry the whole job",
            "content": EVENT_STREAM,
        },
        204: {"description": "Last-Event-ID was the end of the story: do not connect again"},
        **problems(*ACCESS, errors.JobNotFound, *QUEUE, errors.PicturesUnavailable),
    },
)
async def follow(
    record: OwnRecord,
    request: Request,
    gateway: TheGateway,
    last_event_id: Annotated[
        str | None, Header(description="Go on after this `id:`, without the present state")
    ] = None,
) -> Response:
    """Ends when the job is over, and after a while in any case: connect again with Last-Event-ID to go on."""
    last = await gateway.store.last_event_id(record.id)
    after = known_place(last_event_id, last)
    if record.status.is_over and after == last:
        return Response(status_code=204)
    story = _Story(gateway, record, gateway.base(request))
    return event_stream(request, story.tell(after, last=last))


class StreamToken(BaseModel):
    """A link that opens the event stream of one job and nothing else: for EventSource, which cannot send a key."""

    object: Literal["stream_token"] = "stream_token"
    url: str = Field(description="The stream with the token in it")
    token: str
    expires_in: int = Field(description="Seconds until a connection can no longer be opened with it")


@router.post(
    "/{job_id}/events/token",
    status_code=201,
    response_model=StreamToken,
    summary="A link for EventSource",
    responses=problems(*ACCESS, errors.JobNotFound, *QUEUE),
)
async def create_token(
    record: OwnRecord, request: Request, gateway: TheGateway, caller: TheCaller, response: Response
) -> StreamToken:
    """It opens this job's stream without a key, until its time is over or the key that asked for it is revoked."""
    response.headers["Cache-Control"] = "no-store"
    token = await gateway.stream_tokens.create(record.id, caller)
    url = f"{gateway.base(request)}/v1/jobs/{record.id}/events?token={token}"
    return StreamToken(url=url, token=token, expires_in=TOKEN_SECONDS)


class _Story:
    """One connection's telling of one job."""

    def __init__(self, gateway: Gateway, record: Record, base: str) -> None:
        self._gateway = gateway
        self._job_id, self._tenant = record.id, record.tenant
        self._base = base
        self._ends = time.monotonic() + gateway.settings.stream_seconds
        self._beat_at = 0.0

    async def tell(self, after: str | None, *, last: str) -> AsyncIterator[bytes]:
        """Bytes of events, from `after` on; from None, the present state and what came after `last`.

        Cancelled by the server within a moment of the client's departure.
        """
        try:
            if after is None:
                # The place was read first, the state second: what happens between is told again, never left out.
                record = await self._record()
                yield self._event(FIRST, last, await self._shown(record))
                if record.status.is_over:
                    return
                # A thousand streams would hold a thousand of them.
                del record
            async for chunk in self._go_on(after or last):
                yield chunk
        except (redis.RedisError, errors.JobNotFound) as error:
            # The head is sent; the client learns more when it connects again.
            log.info("event stream broke off", job_id=self._job_id, error=type(error).__name__)
        yield format_sse_event(retry=RETRY_MS)

    async def _go_on(self, after: str) -> AsyncIterator[bytes]:
        yield self._heartbeat()
        async with self._gateway.feed.follow(self._job_id, after) as follower:
            while (left := self._ends - time.monotonic()) > 0:
                events = await follower.next(min(left, max(0.0, self._beat_at - time.monotonic())))
                if events is None:
                    return
                for event_id, name, data in events:
                    if name in FINAL_EVENTS:
                        yield self._event(name, event_id, await self._shown(await self._record()))
                        return
                    if name != Event.PREVIEW:
                        yield self._event(name, event_id, {"id": self._job_id, **data})
                    elif jpeg := await self._gateway.store.preview(self._job_id, data):
                        yield self._event(name, event_id, {"id": self._job_id, **data, "jpeg": jpeg})
                if not events and time.monotonic() >= self._beat_at:
                    await self._record()
                    yield self._heartbeat()

    async def _shown(self, record: Record) -> dict[str, Any]:
        view = await self._gateway.viewer.view(record, base=self._base)
        return view.model_dump(mode="json")

    async def _record(self) -> Record:
        record = await self._gateway.store.get(self._job_id, self._tenant)
        if record is None:
            raise errors.JobNotFound
        return record

    def _heartbeat(self) -> bytes:
        self._beat_at = time.monotonic() + HEARTBEAT_SECONDS * random.uniform(0.7, 1.0)
        return format_sse_event(comment="")

    def _event(self, name: str, event_id: str, data: dict[str, Any]) -> bytes:
        return format_sse_event(event=name, id=event_id, data_str=json.dumps(data))


def known_place(last_event_id: str | None, last: str) -> str | None:
    """The place to go on from; None, which means the beginning, for what is no place in this job's story."""
    found = _STREAM_ID.fullmatch(last_event_id or "")
    return found[0] if found and _order(found[0]) <= _order(last) else None


def _order(stream_id: str) -> tuple[int, int]:
    ms, _, count = stream_id.partition("-")
    return int(ms), int(count)
