"""A webhook's part of a job's trace: a span for each try that was sent.

Knows which attributes are harmless: never the receiver's address, which is its owner's and may hold a secret.
"""

from __future__ import annotations

from collections.abc import Awaitable

from opentelemetry.trace import SpanKind, StatusCode, Tracer

from app.contract.outbox import Try
from app.contract.tracing import parent_from
from app.webhooks.deliver import Answer, Verdict


async def traced(tracer: Tracer | None, one: Try, sending: Awaitable[tuple[Answer, int]]) -> tuple[Answer, int]:
    """What `sending` answers, the answer and its ms; with a tracer, the try is a span of the job's trace."""
    if tracer is None:
        return await sending
    with tracer.start_as_current_span(
        "POST webhook",
        context=parent_from(one.fields.get("traceparent")),
        kind=SpanKind.CLIENT,
        attributes={"http.request.method": "POST", "darkroom.job.id": one.job_id, "darkroom.event": one.event},
        # An exception's text may hold the receiver's address.
        record_exception=False,
    ) as span:
        answer, took_ms = await sending
        span.set_attributes({"darkroom.outcome": answer.verdict.value, "darkroom.number": one.number})
        if answer.status is not None:
            span.set_attribute("http.response.status_code", answer.status)
        if answer.verdict is Verdict.FAILED:
            span.set_attribute("error.type", str(answer.status or "no_answer"))
            span.set_status(StatusCode.ERROR)
    return answer, took_ms
