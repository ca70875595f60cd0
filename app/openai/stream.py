"""One answer of OpenAI's image API as server-sent events: previews on the way, then each picture."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import redis
from fastapi.sse import format_sse_event

from app.contract.messages.events import JobEvent
from app.contract.messages.job import Picture
from app.edge import errors
from app.edge.error_handler import redis_problem
from app.edge.problem import Problem
from app.openai.errors import error_object
from app.pictures.errors import PictureStoreError
from app.routes.answers import picture_base64
from app.routes.events import HEARTBEAT
from app.routes.joining import Waiting
from app.routes.long_waits import events, succeeded
from app.services import Services


class ImageStream:
    """One streamed answer. `kind` is what the types of its events begin with."""

    def __init__(
        self, services: Services, waiting: Waiting, *, kind: str, partial_images: int, warnings: Sequence[str]
    ) -> None:
        self._kind = kind
        self._services = services
        self._waiting = waiting
        self._record = waiting.record
        self._left = partial_images
        self._warnings = warnings
        self._shown = 0

    async def events(self) -> AsyncIterator[bytes]:
        """Bytes of events. The head is sent, so that whatever goes wrong is an event as well."""
        try:
            async with self._waiting.answering():
                async for entry in events(self._services, self._waiting, watched=True):
                    if entry is None:
                        yield HEARTBEAT
                    elif entry.event == JobEvent.PREVIEW and self._is_due(entry.data):
                        jpeg = await self._services.jobs.preview(self._record.id, entry.data)
                        if jpeg is not None:
                            yield self._event("partial_image", jpeg)
                record = await self._services.jobs.get(self._record.id, self._record.tenant) or self._record
                self._record = record
                for picture in succeeded(record).images:
                    yield self._event("completed", await picture_base64(self._services, picture), picture)
        except Problem as problem:
            yield _error_event(problem)
        except redis.RedisError as error:
            yield _error_event(redis_problem(error))
        except PictureStoreError:
            yield _error_event(errors.PicturesUnavailable("The picture store does not answer at the moment."))

    def _is_due(self, data: dict[str, Any]) -> bool:
        """Spread over the steps: of two pictures, the first after a third and the second after two thirds."""
        if not self._left or data.get("index", 0) != 0:
            return False
        due = (self._shown + 1) / (self._shown + self._left + 1) * data["steps"]
        return bool(data["step"] >= due)

    def _event(self, word: str, b64_json: str, picture: Picture | None = None) -> bytes:
        spec = self._record.spec
        kind = f"{self._kind}.{word}"
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


def _error_event(problem: Problem) -> bytes:
    return format_sse_event(event="error", data_str=json.dumps({"type": "error", "error": error_object(problem)}))
