"""A worker's part of a job's trace: how long it waited, and each attempt with encode, denoise, decode and upload.

Listens like the metrics do: to claims, to the engine's events and to the reporter. Knows no Redis and no collector;
never tells a prompt, a seed or a tenant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer

from app.contract.common.tracing import fail, parent_from
from app.contract.redis.ownership import Claim
from app.contract.redis.rq_names import queue_name
from worker.attempts import Answered, NotBegun
from worker.engine.events import EngineEvent, Failed, Finished, LastEvent, Started, Timings

SECOND = 1_000_000_000
"""Nanoseconds."""


@dataclass(slots=True)
class _Open:
    """An attempt's span, what its stages hang on, and when the step began in which it took its first seat."""

    span: Span
    context: Context
    seated_at: int


class Traces:
    """Attempts of this worker as spans. Without a tracer, nothing is noted. For any thread."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._open: dict[str, _Open] = {}

    def claimed(self, claim: Claim) -> None:
        """An attempt begins. The first one ends the job's waiting."""
        if self._tracer is None:
            return
        now, parent, queue = time.time_ns(), parent_from(claim.traceparent), queue_name(claim.spec.model)
        names = {"messaging.destination.name": queue, "messaging.message.id": claim.id}
        if claim.attempt == 1:
            accepted = now - claim.waited_ms * 1_000_000
            self._tracer.start_span("queued", context=parent, start_time=accepted, attributes=names).end(now)
        span = self._tracer.start_span(
            f"process {queue}",
            context=parent,
            kind=SpanKind.CONSUMER,
            start_time=now,
            attributes={**names, "messaging.system": "rq", "darkroom.job.id": claim.id, **_parameters(claim)},
        )
        self._open[claim.token] = _Open(span, trace.set_span_in_context(span, Context()), now)

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        """The engine's step took so long and said this. Called before the reporter hears of it: see Listeners."""
        if self._tracer is None:
            return
        now = time.time_ns()
        for event in events:
            attempt = self._open.get(event.request_id)
            if attempt is None:
                continue
            if isinstance(event, Started):
                # It may have come in while the step was taken.
                attempt.seated_at = max(attempt.seated_at, now - int(seconds * SECOND))
                attempt.span.set_attribute("darkroom.resumed_at_step", event.resumed_at)
            elif isinstance(event, Finished):
                self._stages(attempt, event.timings, now)

    def put_aside(self, token: str) -> None:
        """An attempt has left its seats for a while."""
        if (attempt := self._open.get(token)) is not None:
            attempt.span.add_event("put aside")

    @contextmanager
    def upload(self, claim: Claim) -> Iterator[None]:
        """Around writing and storing an attempt's pictures."""
        attempt = self._open.get(claim.token)
        if attempt is None:
            yield
            return
        with self._noted("upload", context=attempt.context):
            yield

    @contextmanager
    def loading(self, model: str) -> Iterator[None]:
        """Around taking a model up, by a worker that has several."""
        with self._noted("load model", attributes={"darkroom.model": model}):
            yield

    def ended(self, claim: Claim, last: LastEvent | NotBegun | Answered, *, owned: bool) -> None:
        """The last word about an attempt was said; `owned`: and it counted."""
        attempt = self._open.pop(claim.token, None)
        if attempt is None:
            return
        attempt.span.set_attributes({"darkroom.outcome": type(last).__name__.lower(), "darkroom.owned": owned})
        took = {"evaluations": last.work.evaluations, "device_seconds": round(last.work.device_seconds, 4)}
        attempt.span.set_attributes({f"darkroom.{name}": value for name, value in took.items()})
        if isinstance(last, Failed | NotBegun):
            fail(attempt.span, last.error.slug)
        attempt.span.end()

    def abandon(self, reason: str) -> None:
        """The process must go: what is open ends here, for this reason."""
        while self._open:
            _, attempt = self._open.popitem()
            fail(attempt.span, reason)
            attempt.span.end()

    @contextmanager
    def _noted(self, name: str, **options: Any) -> Iterator[None]:
        """A span around what happens inside, which says if it raised."""
        if self._tracer is None:
            yield
            return
        span = self._tracer.start_span(name, **options)
        try:
            yield
        except Exception as error:
            fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    def _stages(self, attempt: _Open, spent: Timings, now: int) -> None:
        """The stages, put where they were: encoding opened the step of the first seat, decoding closed the last step.

        Steps are shared and others come between, so a stage lasts longer than what was spent on it.
        """
        encoded = attempt.seated_at + int(spent.encode * SECOND)
        denoised = max(encoded, now - int(spent.decode * SECOND))
        stages = (
            ("encode", attempt.seated_at, encoded, spent.encode),
            ("denoise", encoded, denoised, spent.denoise),
            ("decode", denoised, now, spent.decode),
        )
        assert self._tracer is not None
        for name, began, ended, seconds in stages:
            attributes = {"darkroom.seconds": round(seconds, 4)}
            self._tracer.start_span(name, context=attempt.context, start_time=began, attributes=attributes).end(ended)


def _parameters(claim: Claim) -> dict[str, str | int]:
    spec = claim.spec
    size = {"darkroom.width": spec.width, "darkroom.height": spec.height, "darkroom.num_images": spec.num_images}
    work = {"darkroom.num_inference_steps": spec.num_inference_steps, "darkroom.attempt": claim.attempt}
    return {**size, **work, "darkroom.model": spec.model, "darkroom.scheduler": spec.scheduler}
