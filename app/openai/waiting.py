"""How a request in OpenAI's words waits for its job: for one answer, or as a stream of what happens.

Knows the feed and OpenAI's events. Refuses to know how a job came in.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import redis
from fastapi.sse import format_sse_event

from app.contract.messages.events import FINAL_EVENTS, Event, Status
from app.contract.messages.job import Picture, Record
from app.edge import errors
from app.edge.dialects import openai_error
from app.jobs.model_choice import refuse_if_away
from app.pictures.store import PictureStoreError
from app.routes.answers import picture_base64
from app.routes.joining import Waiting
from app.services import Gateway

LONGEST_WAIT = 590.0
"""Seconds. The client gives up after 600 by itself; an answer before that tells it to try again, and join."""

HEARTBEAT_SECONDS = 15.0

FINAL_HEADERS = {"x-should-retry": "false"}
"""The client would repeat a 409 or a 500, and here that would be another job with the same end."""


async def until_over(gateway: Gateway, waiting: Waiting) -> Record:
    """The record once the job is over, or after LONGEST_WAIT. Raises ModelAway when nobody is there to draw it."""
    ends, record = time.monotonic() + LONGEST_WAIT, waiting.record
    while not record.status.is_over and (left := ends - time.monotonic()) > 0:
        record = await gateway.feed.wait_until_over(record, seconds=min(left, HEARTBEAT_SECONDS))
        if not record.status.is_over:
            await waiting.go_on()
        await refuse_if_abandoned(gateway, record)
    return record


async def refuse_if_abandoned(gateway: Gateway, record: Record) -> None:
    """A job that waits while its model has been away for too long: it goes on waiting, but nobody waits with it."""
    model = (await gateway.board.models()).get(record.model)
    if record.status is Status.QUEUED and model is not None:
        refuse_if_away(model)


def succeeded(record: Record) -> Record:
    """The record, if it has its pictures. Raises the problem that says how the job ended otherwise."""
    if record.status is Status.SUCCEEDED:
        return record
    if record.status is Status.FAILED:
        said = record.error.detail if record.error else "The job's record says no more."
        raise errors.JobFailed(said, headers=FINAL_HEADERS)
    if record.status is Status.CANCELED:
        raise errors.JobWasCanceled("The job was called off before it had pictures.", headers=FINAL_HEADERS)
    raise errors.JobUnfinished("The job goes on: send the same request again to join it.", retry_after=1)


class Tale:
    """One streamed answer."""

    def __init__(self, gateway: Gateway, waiting: Waiting, *, partial_images: int, warnings: Sequence[str]) -> None:
        self._gateway = gateway
        self._waiting = waiting
        self._record = waiting.record
        self._left = partial_images
        self._warnings = warnings
        self._shown = 0
        self._ends = time.monotonic() + LONGEST_WAIT

    async def tell(self) -> AsyncIterator[bytes]:
        """Bytes of events. The head is sent, so that whatever goes wrong is an event as well."""
        try:
            async with self._waiting.answering():
                async for chunk in self._until_over():
                    yield chunk
                record = await self._gateway.store.get(self._record.id, self._record.tenant) or self._record
                self._record = record
                for picture in succeeded(record).images:
                    yield self._event("completed", await picture_base64(self._gateway, picture), picture)
        except errors.Problem as problem:
            yield _error_event(problem)
        except redis.RedisError:
            yield _error_event(errors.QueueUnavailable("The queue does not answer at the moment; the job is safe."))
        except PictureStoreError:
            yield _error_event(errors.PicturesUnavailable("The picture store does not answer at the moment."))

    async def _until_over(self) -> AsyncIterator[bytes]:
        if self._record.status.is_over:
            return
        said = time.monotonic()
        async with self._gateway.feed.follow(self._record.id, "0-0") as follower:
            while (left := self._ends - time.monotonic()) > 0:
                news = await follower.next(min(left, HEARTBEAT_SECONDS))
                if news is None:
                    return
                for _, event, data in news:
                    if event in FINAL_EVENTS:
                        return
                    if event == Event.PREVIEW and self._is_due(data):
                        jpeg = await self._gateway.store.preview(self._record.id, data)
                        if jpeg is not None:
                            yield self._event("partial_image", jpeg)
                if time.monotonic() - said >= HEARTBEAT_SECONDS:
                    said = time.monotonic()
                    await self._waiting.go_on()
                if not news:
                    record = await self._gateway.store.get(self._record.id, self._record.tenant)
                    await refuse_if_abandoned(self._gateway, record or self._record)
                    yield format_sse_event(comment="")

    def _is_due(self, data: dict[str, Any]) -> bool:
        """Spread over the steps: of two pictures, the first after a third and the second after two thirds."""
        if not self._left or data.get("index", 0) != 0:
            return False
        due = (self._shown + 1) / (self._shown + self._left + 1) * data["steps"]
        return bool(data["step"] >= due)

    def _event(self, word: str, b64_json: str, picture: Picture | None = None) -> bytes:
        spec = self._record.spec
        kind = f"image_generation.{word}"
        event: dict[str, Any] = {
            "type": kind,
            "b64_json": b64_json,
            "created_at": self._record.created_ms // 1000,
            "size": f"{spec.width}x{spec.height}",
            "quality": "auto",
            "background": "opaque",
            "output_format": spec.output_format if picture else "jpeg",
            "job_id": self._record.id,
        }
        if picture:
            event |= {"seed": picture.seed, "warnings": [*self._warnings, *self._record.warnings], "usage": _NO_USAGE}
        else:
            event["partial_image_index"] = self._shown
            self._shown, self._left = self._shown + 1, self._left - 1
        return format_sse_event(event=kind, data_str=json.dumps(event))


_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""The client's type demands the field; nobody is billed here."""


def _error_event(problem: errors.Problem) -> bytes:
    return format_sse_event(event="error", data_str=json.dumps({"type": "error", "error": openai_error(problem)}))
