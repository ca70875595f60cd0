"""The gateway's part of a trace: a server span around each request that may make a job, and its context for the record.

Knows ASGI and which attributes are harmless: never a path, query or header as it came. FastAPI's own tracing writes
paths and queries, in which a caller may put anything, so it is turned off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.contract.common.tracing import current_traceparent, parent_from
from app.contract.messages.job import Record

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

FASTAPIS_OWN: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


class Traced:
    """ASGI middleware outside of everything. A span for each POST: polls and pictures would only drown the jobs."""

    def __init__(self, app: ASGIApp, *, tracer: Tracer) -> None:
        self.app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        # An exception's text may hold what the caller said, so it is not recorded.
        with self._tracer.start_as_current_span(
            "POST",
            context=parent_from(Headers(scope=scope).get("traceparent")),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST"},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _describe(span, scope, message["status"])
                await send(message)

            await self.app(scope, receive, note)


def traceparent_for_record(given: str | None) -> str | None:
    """What the job's worker goes on from: the span around this request, or what the client gave if there is none."""
    return current_traceparent() or given


def note_job(record: Record) -> None:
    """Say on the span around this request which job it led to."""
    trace.get_current_span().set_attributes({"darkroom.job.id": record.id, "darkroom.model": record.model})


def note_change(action: str, outcome: str) -> None:
    """Say on the span around this request what an operator has changed, and not of whom."""
    trace.get_current_span().set_attributes({"darkroom.admin.action": action, "darkroom.admin.outcome": outcome})


def _describe(span: trace.Span, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        span.update_name(f"POST {route}")
        span.set_attribute("http.route", route)
    span.set_attributes({"http.response.status_code": status, "darkroom.request.id": scope["state"]["request_id"]})
    if status >= 500:
        span.set_status(StatusCode.ERROR)
