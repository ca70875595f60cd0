"""OpenTelemetry as gateway and worker use it: whether traces are wanted, what sends them, the context on its way.

OpenTelemetry's own variables decide; Darkroom adds none. The SDK is imported only where a collector is named. Refuses
to know what a span is about.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from threading import Thread
from typing import TYPE_CHECKING

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.contract.common.extras import how_to_install

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger()

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"

SEND_MS = 1_000
"""Spans wait so long for company: what a killed process had not sent is lost. OTEL_BSP_SCHEDULE_DELAY overrides it."""

FLUSH_SECONDS = 2.0
"""For the collector at the end of a process."""

_W3C = TraceContextTextMapPropagator()


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether a collector is named and traces are not turned off."""
    is_off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_elsewhere = environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in ("", "otlp")
    return not is_off and not is_elsewhere and any(environ.get(name) for name in ENDPOINTS)


def open_provider(service: str, *, version: str) -> TracerProvider | None:
    """A provider that sends spans to the collector, in a thread of its own; None, with a log line, where it cannot.

    `service` and `version` are service.name and service.version, unless OpenTelemetry's variables say otherwise.
    """
    if not wanted(os.environ):
        return None
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), PROTOCOL)
    if protocol != PROTOCOL:
        remedy = f"set {PROTOCOLS[1]}={PROTOCOL}, and the endpoint to the collector's HTTP port, usually 4318"
        log.warning("no traces: this protocol is not spoken", protocol=protocol, remedy=remedy)
        return None
    try:
        return _provider(service, version)
    except ModuleNotFoundError as error:
        log.warning("no traces: a package is missing", package=error.name, remedy=how_to_install("otel"))
        return None


def close_provider(provider: TracerProvider) -> None:
    """Send what is left. A collector that does not answer holds up nobody for longer than FLUSH_SECONDS."""
    flush = Thread(target=provider.shutdown, name="last spans", daemon=True)
    flush.start()
    flush.join(FLUSH_SECONDS)


def parent_from(traceparent: str | None) -> Context:
    """The context that a W3C traceparent names; an empty one, so a trace of its own, for none or a bad one."""
    return _W3C.extract({"traceparent": traceparent or ""}, context=Context())


def fail(span: Span, kind: str) -> None:
    """Say on a span that what it covers failed. `kind` is a class or a slug, never an exception's text."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def current_traceparent() -> str | None:
    """W3C traceparent of the span that is current here, None if there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent")


def _provider(service: str, version: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    instance = f"{socket.gethostname()}-{os.getpid()}"
    ours = {"service.name": service, "service.version": version, "service.instance.id": instance}
    # Once more after ours, so that what the environment says wins.
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    delay = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else SEND_MS
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay))
    return provider
