"""What a worker tells of its attempts: driven by scripted events, read from memory."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.contract.messages.card import ModelCard
from app.contract.messages.job import new_job_id
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.usage import Work
from app.contract.redis.ownership import Claim
from worker import tracing
from worker.engine.errors import GenerationFailed
from worker.engine.events import DrawnImage, Failed, Finished, Progress, Started, Stopped, Timings
from worker.errors import StorageUnavailable
from worker.tracing import Traces

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STEP = 0.1


class Told:
    """Traces, and what came of them."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.traces = Traces(provider.get_tracer("test"))

    def spans(self) -> dict[str, ReadableSpan]:
        finished = self._memory.get_finished_spans()
        spans = {span.name: span for span in finished}
        assert len(spans) == len(finished)
        return spans


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def claim(card: ModelCard) -> Claim:
    spec = resolve(JobRequest(prompt="zanzibar", seed=7_777_777), card)
    parent = f"00-{TRACE}-{CALLER}-01"
    return Claim(new_job_id(), "a" * 32, spec, attempt=1, failures=0, traceparent=parent, waited_ms=1_500)


def finished(claim: Claim) -> Finished:
    spent = Timings(encode=0.01, denoise=0.02, decode=0.03, wall=1.0)
    pixels = np.zeros((8, 8, 3), np.uint8)
    images, work = [DrawnImage(pixels, seed=7, index=0)], Work(evaluations=20, rows=40, device_seconds=1.25)
    return Finished(claim.token, images=images, steps=20, timings=spent, warnings=[], work=work)


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What Traces takes for the time, `now` in seconds."""
    clock = SimpleNamespace(now=time.time())
    monkeypatch.setattr(tracing, "time", SimpleNamespace(time_ns=lambda: int(clock.now * 1e9)))
    return clock


def test_each_time_that_a_job_is_put_aside_is_an_event_of_its_attempt(told: Told, claim: Claim) -> None:
    told.traces.claimed(claim)
    for token in (claim.token, "another", claim.token):
        told.traces.put_aside(token)
    told.traces.abandon("the test is over")
    spans = told.spans()
    assert [event.name for event in spans["process generate-starter"].events[:2]] == ["put aside"] * 2
    assert not spans["queued"].events


def test_a_job_that_comes_in_while_a_step_is_taken(told: Told, claim: Claim, clock: SimpleNamespace) -> None:
    """Its stages begin no earlier than it was claimed, however long that step has lasted."""
    told.traces.claimed(claim)
    clock.now += 0.1
    told.traces.stepped(5.0, [Started(claim.token)])
    clock.now += 1.0
    told.traces.stepped(STEP, [finished(claim)])
    told.traces.abandon("the test is over")
    spans = told.spans()
    assert spans["encode"].start_time == spans["process generate-starter"].start_time


def test_an_attempt_that_succeeds(told: Told, claim: Claim, clock: SimpleNamespace) -> None:
    told.traces.claimed(claim)
    clock.now += STEP
    told.traces.stepped(STEP, [Started(claim.token), Progress(claim.token, 1, 20)])
    last = finished(claim)
    clock.now += STEP
    told.traces.stepped(STEP, [last])
    with told.traces.upload(claim):
        pass
    told.traces.ended(claim, last, owned=True)
    spans = told.spans()
    attempt = spans["process generate-starter"]
    assert set(spans) == {"queued", "encode", "denoise", "decode", "upload", attempt.name}
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
    parents = {name: span.parent.span_id for name, span in spans.items() if span.parent}
    caller = int(CALLER, 16)
    assert attempt.context is not None
    assert parents == dict.fromkeys(spans, attempt.context.span_id) | {"queued": caller, attempt.name: caller}
    assert seconds(spans["queued"]) == pytest.approx(1.5, abs=0.001)
    assert seconds(spans["encode"]) == pytest.approx(0.01, abs=1e-6)
    assert seconds(spans["decode"]) == pytest.approx(0.03, abs=1e-6)
    assert spans["encode"].end_time == spans["denoise"].start_time
    assert spans["denoise"].end_time == spans["decode"].start_time
    assert attempt.attributes is not None
    assert (attempt.attributes["darkroom.job.id"], attempt.attributes["darkroom.outcome"]) == (claim.id, "finished")
    assert (attempt.attributes["darkroom.evaluations"], attempt.attributes["darkroom.device_seconds"]) == (20, 1.25)
    everything = "".join(span.to_json() for span in spans.values())
    assert "zanzibar" not in everything
    assert "7777777" not in everything


def test_a_later_attempt_did_not_wait_since_the_beginning(told: Told, claim: Claim) -> None:
    again = replace(claim, attempt=2)
    told.traces.claimed(again)
    told.traces.ended(again, Stopped(again.token), owned=False)
    [attempt] = told.spans().values()
    assert attempt.attributes is not None
    assert (attempt.attributes["darkroom.attempt"], attempt.attributes["darkroom.owned"]) == (2, False)


@pytest.mark.parametrize("given", ["", "zanzibar", f"00-{'0' * 32}-{CALLER}-01"])
def test_a_job_of_nobodys_trace_begins_one(told: Told, claim: Claim, given: str) -> None:
    told.traces.claimed(replace(claim, traceparent=given, attempt=2))
    told.traces.abandon("device-lost")
    [attempt] = told.spans().values()
    assert attempt.parent is None
    assert attempt.status.status_code.name == "ERROR"
    assert attempt.attributes is not None
    assert attempt.attributes["error.type"] == "device-lost"


def test_a_caller_who_does_not_sample_is_heard(told: Told, claim: Claim) -> None:
    told.traces.claimed(replace(claim, traceparent=claim.traceparent[:-1] + "0"))
    told.traces.ended(claim, finished(claim), owned=True)
    assert told.spans() == {}


def test_failures_have_names_and_no_words(told: Told, claim: Claim) -> None:
    told.traces.claimed(claim)
    with pytest.raises(StorageUnavailable), told.traces.upload(claim):
        raise StorageUnavailable("zanzibar")
    told.traces.ended(claim, Failed(claim.token, GenerationFailed("zanzibar")), owned=True)
    told.traces.ended(claim, Failed(claim.token, GenerationFailed("twice")), owned=True)
    spans = told.spans()
    kinds = {name: (span.attributes or {}).get("error.type") for name, span in spans.items()}
    assert kinds == {
        "queued": None,
        "upload": "StorageUnavailable",
        "process generate-starter": "generation-failed",
    }
    assert "zanzibar" not in "".join(span.to_json() for span in spans.values())


def test_without_a_tracer_nothing_is_noted(claim: Claim) -> None:
    traces = Traces()
    traces.claimed(claim)
    traces.stepped(STEP, [Started(claim.token), finished(claim)])
    with traces.upload(claim):
        pass
    traces.ended(claim, finished(claim), owned=True)
    traces.abandon("worker-stopped")
    assert vars(traces) == {"_tracer": None, "_open": {}}
