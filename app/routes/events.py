"""The events of one job, or of several, as server-sent events: how it stands now, then what happens, until it is over.

An `id:` is made of the ids that the events have in Redis, so a stream goes on where it broke off, at whichever gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from operator import itemgetter
from typing import Annotated, Any, Literal

import redis
import structlog
from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.contract.messages.events import FINAL_EVENTS, JobEvent
from app.contract.messages.job import Record
from app.contract.redis.streams import Entry
from app.edge import errors
from app.edge.stream_tokens import TOKEN_SECONDS
from app.jobs.event_ids import Places, known_place, read_places, write_places
from app.routes.answers import ACCESS, EVENT_STREAM, QUEUE, event_stream, problems
from app.services import OwnRecord, Services, TheCaller, TheServices

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
log = structlog.get_logger()

HEARTBEAT = format_sse_event(comment="")
"""A comment: clients ignore it, proxies see that the connection lives."""

RETRY_MS = 1_000
"""How long an EventSource waits before it connects again."""

FIRST = "job"
"""Name of the event that carries the present state. The others are named as in `Event`."""

MOST_JOBS = 100
"""Jobs of one stream: as many as one page of the list. All of their ids fill a tenth of the largest head."""

LastEventId = Annotated[str | None, Header(description="Go on after this `id:`, without the present state")]


@router.get(
    "/events",
    response_class=Response,
    summary="Follow several jobs",
    responses={
        200: {
            "description": "The events of every named job, as the stream of one job has them: `data.id` says whose "
            "they are. `job` with the present state of each comes first. An `id:` stands for a place in all of them",
            "content": EVENT_STREAM,
        },
        204: {"description": "Last-Event-ID was the end of all of them: do not connect again"},
        **problems(*ACCESS, errors.JobNotFound, errors.InvalidRequest, *QUEUE, errors.PicturesUnavailable),
    },
)
async def follow_several(
    request: Request,
    services: TheServices,
    caller: TheCaller,
    job_ids: Annotated[
        list[str], Query(alias="id", min_length=1, description=f"Jobs of yours, at most {MOST_JOBS}: `id=…&id=…`")
    ],
    last_event_id: LastEventId = None,
) -> Response:
    """One connection for a page full of jobs. Ends when all are over, and after a while in any case: connect again with
    the same ids and Last-Event-ID to go on. With other ids, the stream begins with the present."""
    # Not as maxItems in the schema: tools that make up examples from it need many seconds for lists of a hundred.
    if len(job_ids) > MOST_JOBS:
        error = {"parameter": "id", "code": "too_long", "detail": f"at most {MOST_JOBS} jobs in one stream"}
        raise errors.InvalidRequest("Follow the others with another stream.", errors=[error])
    records = await services.records(list(dict.fromkeys(job_ids)), caller)
    last = await services.jobs.last_event_ids([record.id for record in records])
    places = read_places(last_event_id, last)
    return _answer(services, request, records, places=places, last=last, write_id=write_places)


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
        204: {"description": "Last-Event-ID was the last event: do not connect again"},
        **problems(*ACCESS, errors.JobNotFound, *QUEUE, errors.PicturesUnavailable),
    },
)
async def follow(
    record: OwnRecord,
    request: Request,
    services: TheServices,
    last_event_id: LastEventId = None,
) -> Response:
    """Ends when the job is over, and after a while in any case: connect again with Last-Event-ID to go on."""
    last = await services.jobs.last_event_id(record.id)
    place = known_place(last_event_id, last)
    return _answer(
        services, request, [record], places={record.id: place}, last={record.id: last}, write_id=itemgetter(record.id)
    )


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
    record: OwnRecord, request: Request, services: TheServices, caller: TheCaller, response: Response
) -> StreamToken:
    """It opens this job's stream without a key, until its time is over or the key that asked for it is revoked."""
    response.headers["Cache-Control"] = "no-store"
    token = await services.stream_tokens.create(record.id, caller)
    url = f"{services.base(request)}/v1/jobs/{record.id}/events?token={token}"
    return StreamToken(url=url, token=token, expires_in=TOKEN_SECONDS)


def _answer(
    services: Services,
    request: Request,
    records: list[Record],
    *,
    places: Mapping[str, str | None],
    last: Mapping[str, str],
    write_id: Callable[[Places], str],
) -> Response:
    told = {record.id for record in records if record.status.is_terminal and places[record.id] == last[record.id]}
    if len(told) == len(records):
        return Response(status_code=204)
    stream = EventStream(services, records[0].tenant, services.base(request), places=places, write_id=write_id)
    return event_stream(request, stream.events(last, told=told))


class EventStream:
    """One connection's telling of one job, or of several: the present first, then what happens to each until it ends.

    `places` says where to go on; `write_id` makes the `id:` of an event from the places behind it. There are thousands:
    what one holds is counted in bytes.
    """

    __slots__ = ("_base", "_ends", "_places", "_services", "_tenant", "_write_id")

    def __init__(
        self,
        services: Services,
        tenant: str,
        base: str,
        *,
        places: Mapping[str, str | None],
        write_id: Callable[[Places], str],
    ) -> None:
        self._services = services
        self._tenant = tenant
        self._base = base
        self._places = dict(places)
        self._write_id = write_id
        self._ends = time.monotonic() + services.settings.stream_seconds

    async def events(self, last: Mapping[str, str], *, told: Collection[str]) -> AsyncIterator[bytes]:
        """Bytes of events. `last` is where each job's events ended before its state is read; `told` names jobs that are
        over and were heard to the end. Cancelled by the server within a moment of the client's departure.
        """
        try:
            unfinished = {job: place for job, place in self._places.items() if place is not None and job not in told}
            async for chunk in self._present(last, unfinished):
                yield chunk
            # What the frame of a generator names lives as long as the stream.
            del last, told
            if not unfinished:
                return
            async for chunk in self._go_on(unfinished):
                yield chunk
        except redis.RedisError as error:
            # The head is sent; the client learns more when it connects again.
            log.info("event stream broke off", jobs=len(self._places), error=type(error).__name__)
        yield format_sse_event(retry=RETRY_MS)

    async def _present(self, last: Mapping[str, str], unfinished: dict[str, str]) -> AsyncIterator[bytes]:
        """The state of every job that has no place yet. Puts those that go on, with their place, into `unfinished`."""
        # The places were read first, the states second: what happens between is told again, never left out.
        for record in await self._records([job_id for job_id, place in self._places.items() if place is None]):
            yield self._event(FIRST, record.id, last[record.id], await self._job(record))
            if not record.status.is_terminal:
                unfinished[record.id] = last[record.id]

    async def _go_on(self, after: Mapping[str, str]) -> AsyncIterator[bytes]:
        yield HEARTBEAT
        async with self._services.feed.follow(after) as following:
            async for news in following.events(until=self._ends):
                if news is None:
                    there = {record.id for record in await self._records(list(following.places))}
                    for job_id in following.places.keys() - there:
                        following.drop(job_id)
                    yield HEARTBEAT
                    continue
                job_id, entry = news
                data = await self._data(job_id, entry)
                if data is not None:
                    yield self._event(entry.event, job_id, entry.id, data)

    async def _data(self, job_id: str, entry: Entry) -> dict[str, Any] | None:
        """What an event says, None if that is gone."""
        if entry.event in FINAL_EVENTS:
            found = await self._records([job_id])
            return await self._job(found[0]) if found else None
        if entry.event != JobEvent.PREVIEW:
            return {"id": job_id, **entry.data}
        jpeg = await self._services.jobs.preview(job_id, entry.data)
        return {"id": job_id, **entry.data, "jpeg": jpeg} if jpeg else None

    async def _job(self, record: Record) -> dict[str, Any]:
        view = await self._services.viewer.view(record, base=self._base)
        return view.model_dump(mode="json")

    async def _records(self, job_ids: list[str]) -> list[Record]:
        return await self._services.jobs.get_all(job_ids, self._tenant) if job_ids else []

    def _event(self, name: str, job_id: str, event_id: str, data: dict[str, Any]) -> bytes:
        self._places[job_id] = event_id
        return format_sse_event(event=name, id=self._write_id(self._places), data_str=json.dumps(data))
