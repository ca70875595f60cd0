"""What the webhooks process tells a collector of its tries: read from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.webhooks.conftest import JobFor, PostOffice
from tests.webhooks.receivers import Receiver, resets, says

pytestmark = pytest.mark.anyio

Receivers = Callable[..., Awaitable[Receiver]]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced_office(make_office: Callable[..., PostOffice], memory: InMemorySpanExporter) -> PostOffice:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return make_office(tracer=provider.get_tracer("test"))


def only(memory: InMemorySpanExporter) -> ReadableSpan:
    [span] = memory.get_finished_spans()
    return span


async def test_a_delivery_belongs_to_its_jobs_trace(
    traced_office: PostOffice, receiver: Receiver, job_for: JobFor, memory: InMemorySpanExporter
) -> None:
    job_id = await job_for(receiver.url + "?token=canary", traceparent=f"00-{TRACE}-{CALLER}-01")
    await traced_office.round()
    span = only(memory)
    assert span.name == "POST webhook"
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}/{span.parent.span_id:016x}" == f"{TRACE}/{CALLER}"
    assert span.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "darkroom.job.id": job_id,
        "darkroom.event": "job.canceled",
        "darkroom.number": 1,
        "darkroom.outcome": "delivered",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("step", "kind"), [(says(500), "500"), (resets, "no_answer")])
async def test_a_failed_try_says_so_and_never_where_to(
    traced_office: PostOffice,
    receivers: Receivers,
    job_for: JobFor,
    memory: InMemorySpanExporter,
    step: object,
    kind: str,
) -> None:
    receiver = await receivers(step)
    await job_for(receiver.url + "?token=canary")
    await traced_office.round()
    span = only(memory)
    assert span.attributes is not None
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, kind)
    assert "canary" not in span.to_json()
    assert str(receiver.port) not in span.to_json()


async def test_without_a_collector_there_is_no_span(
    office: PostOffice, receiver: Receiver, job_for: JobFor, memory: InMemorySpanExporter
) -> None:
    await job_for(receiver.url)
    await office.round()
    assert len(receiver.arrivals) == 1
    assert not memory.get_finished_spans()


async def test_a_try_that_breaks_leaves_without_its_text(
    traced_office: PostOffice,
    receiver: Receiver,
    job_for: JobFor,
    memory: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def breaks(*_: object) -> None:
        raise RuntimeError(f"could not reach {receiver.url}?token=canary")

    monkeypatch.setattr(traced_office.sender, "post", breaks)
    await job_for(receiver.url)
    await traced_office.round()
    span = only(memory)
    assert span.attributes is not None
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "RuntimeError")
    assert "canary" not in span.to_json()
