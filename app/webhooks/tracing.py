"""A webhook's part of a job's trace: a span for each try that was sent.

Knows which attributes are harmless: never the receiver's address, which is its owner's and may hold a secret.
"""

from __future__ import annotations

from collections.abc import Awaitable

from opentelemetry.trace import SpanKind, Tracer

from app.contract.common.tracing import fail, parent_from
from app.contract.redis.outbox import Try
from app.webhooks.deliver import Answer, Verdict


async def traced(tracer: Tracer | None, one: Try, sending: Awaitable[Answer]) -> Answer:
    """What `sending` answers; with a tracer, the try is a span of the job's trace."""
    if tracer is None:
        return await sending
    with tracer.start_as_current_span(
        "POST webhook",
        context=parent_from(one.fields.get("traceparent")),
        kind=SpanKind.CLIENT,
        attributes={
            "http.request.method": "POST",
            "darkroom.job.id": one.job_id,
            "darkroom.event": one.event,
            "darkroom.number": one.number,
        },
        # An exception's text may hold the receiver's address; either of these would send it.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            answer = await sending
        except BaseException as error:
            fail(span, type(error).__name__)
            raise
        span.set_attribute("darkroom.outcome", answer.verdict.value)
        if answer.status is not None:
            span.set_attribute("http.response.status_code", answer.status)
        if answer.verdict is Verdict.FAILED:
            fail(span, str(answer.status or "no_answer"))
    return answer
