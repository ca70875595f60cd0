"""A prediction in Replicate's words: as one answer, and as a stream of what happens to it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import redis
import structlog
from fastapi.sse import format_sse_event
from starlette.requests import Request

from app.contract.messages.events import FINAL_EVENTS, JobEvent, Status
from app.contract.messages.job import Record
from app.edge.problem import Problem
from app.pictures.errors import PictureStoreError
from app.replicate.schemas import Prediction, data_url, prediction, progress_bar
from app.routes.answers import picture_base64
from app.routes.events import HEARTBEAT, RETRY_MS
from app.services import Services

log = structlog.get_logger()


async def render(services: Services, record: Record, request: Request) -> Prediction:
    """Clients make objects with read() of https: and data: links only, so on plain http the pictures come along."""
    base, output = services.base(request), None
    if record.status is Status.SUCCEEDED and not base.startswith("https:"):
        output = [data_url(picture, await picture_base64(services, picture)) for picture in record.images]
    return prediction(await services.view(record, request), await services.registry.models(), base=base, output=output)


async def prediction_events(
    services: Services, record: Record, request: Request, after: str | None
) -> AsyncIterator[bytes]:
    """Bytes of events; every one has an id. Outputs bear the id before the end: who resumes sees them again."""
    ends, place = time.monotonic() + services.settings.stream_seconds, after or "0-0"
    try:
        if after is None:
            yield format_sse_event(event="logs", id="0-0", data_str=f"Using seed: {record.spec.seed}")
        async with services.feed.follow({record.id: place}) as following:
            async for news in following.events(until=ends):
                if news is None:
                    yield HEARTBEAT
                    continue
                _, entry = news
                if entry.event in FINAL_EVENTS:
                    record = await services.jobs.get(record.id, record.tenant) or record
                    async for chunk in _end(services, record, request, place, entry.id):
                        yield chunk
                    return
                if entry.event == JobEvent.PROGRESS:
                    bar = progress_bar(entry.data["step"], entry.data["steps"], entry.data.get("stage"))
                    yield format_sse_event(event="logs", id=entry.id, data_str=bar)
                place = entry.id
    except (redis.RedisError, PictureStoreError, Problem) as error:
        log.info("prediction stream broke off", job_id=record.id, error=type(error).__name__)
    yield format_sse_event(retry=RETRY_MS)


async def _end(services: Services, record: Record, request: Request, place: str, last: str) -> AsyncIterator[bytes]:
    rendered = await render(services, record, request)
    for output in rendered.output or []:
        yield format_sse_event(event="output", id=place, data_str=output)
    if rendered.error is not None:
        yield format_sse_event(event="error", id=place, data_str=rendered.error)
    reason = {"failed": {"reason": "error"}, "canceled": {"reason": "canceled"}}.get(rendered.status, {})
    yield format_sse_event(event="done", id=last, data_str=json.dumps(reason))
