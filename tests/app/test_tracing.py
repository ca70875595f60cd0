"""When a gateway traces, when it does not, and what a collector that hangs costs: nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from app.contract.common.extras import how_to_install
from app.contract.common.tracing import open_provider, wanted
from tests.app.conftest import OneGateway, ScriptedWorker
from tests.app.test_jobs import PARAMETERS

NAMED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
CALLERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({}, False),
        (NAMED, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (NAMED | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (NAMED | {"OTEL_SDK_DISABLED": "false"}, True),
        (NAMED | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (NAMED | {"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_opentelemetrys_own_variables_decide(environ: dict[str, str], answer: bool) -> None:
    assert wanted(environ) is answer


def test_what_cannot_be_sent_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NAMED.items():
        monkeypatch.setenv(name, value)
    with structlog.testing.capture_logs() as logs:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        assert open_provider("test", version="1") is None
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
        monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
        assert open_provider("test", version="1") is None
    grpc, package = logs
    assert "4318" in grpc["remedy"]
    assert package["remedy"] == how_to_install("otel")


def test_a_gateway_that_does_not_trace_loads_nothing_for_it() -> None:
    probe = (
        "import sys; from app.main import create_app; from app.settings import Settings; app = create_app(Settings());"
        "print(app.state.traces, [m.cls.__name__ for m in app.user_middleware if m.cls.__name__ == 'Traced'],"
        " sorted(set(sys.modules) & {'opentelemetry.sdk.trace', 'opentelemetry.exporter', 'google.protobuf'}))"
    )
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "None [] []"


def test_without_a_trace_of_its_own_the_callers_goes_on(gateway_with: OneGateway, worker: ScriptedWorker) -> None:
    worker.announce()
    with gateway_with() as running:
        running.client.post("/v1/jobs", json=PARAMETERS, headers={"traceparent": CALLERS}).raise_for_status()
        assert worker.claim().traceparent == CALLERS
        running.client.post("/v1/jobs", json=PARAMETERS, headers={"traceparent": "zanzibar"}).raise_for_status()
        assert worker.claim().traceparent == ""


@pytest.fixture
def collector_that_hangs() -> Iterator[str]:
    """Connections are taken by the kernel, and nobody reads them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_collector_that_hangs_holds_up_nothing(
    gateway_with: OneGateway, worker: ScriptedWorker, collector_that_hangs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector_that_hangs)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    worker.announce()
    with gateway_with() as running:  # whose end the fixture waits for, a tenth as long as the exporter would
        for _ in range(5):
            sent = running.client.post("/v1/jobs", json=PARAMETERS, headers={"traceparent": CALLERS})
            assert sent.status_code == 202
            taken = worker.claim().traceparent
            assert taken.split("-")[1] == CALLERS.split("-")[1]
            assert taken != CALLERS, "the job goes on from the gateway's span"
