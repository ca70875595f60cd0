"""What a gateway counts of its requests, for Prometheus: answers by route, and how long until the first byte.

Never a label per job, prompt or tenant, and never a path as it came: only the templates of routes. Refuses to know the
queue: whoever does registers a collector of its own (app/jobs/queue_metrics.py).
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, start_http_server
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
NO_ROUTE = "none"


class GatewayMetrics:
    """One process's counters, and the registry that holds them and what others register.

    `process` is a label: several processes answer on one port, and a scrape sees one of them.
    """

    def __init__(self, *, process: int) -> None:
        self.process = str(process)
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "darkroom_http_requests", "Answers", ["method", "route", "status", "process"], registry=self.registry
        )
        self._seconds = Histogram(
            "darkroom_http_first_byte_seconds", "Until the head of the answer, unless it waits for a job",
            ["route", "process"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip

    def counted(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """One answer whose head was sent, after so long; None if it waited for a job."""
        self._requests.labels(method, route, str(status), self.process).inc()
        if seconds is not None:
            self._seconds.labels(route, self.process).observe(seconds)

    async def text(self) -> bytes:
        """The exposition format."""
        return await asyncio.to_thread(generate_latest, self.registry)

    def serve(self, host: str, port: int) -> tuple[Any, int]:
        """Answer GET /metrics in a thread. Returns the server, to shut down, and its port. OSError if it is taken."""
        server, _ = start_http_server(port, addr=host, registry=self.registry)
        return server, int(server.server_port)


class Counted:
    """ASGI middleware outside of everything: also what the guard refuses is counted."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = time.perf_counter()

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", None) or NO_ROUTE
                method = scope["method"] if scope["method"] in METHODS else "other"
                waits = (method, route) == DELETES_A_JOB or asks_to_wait(scope)
                seconds = None if waits else time.perf_counter() - began
                self._metrics.counted(method, route, message["status"], seconds)
            await send(message)

        await self.app(scope, receive, count)


def asks_to_wait(scope: Scope) -> bool:
    """Whether the caller wants an answer later: `Prefer: wait` (RFC 7240), or `wait` in the query."""
    preferred = (value for name, value in scope["headers"] if name == b"prefer")
    return _WAIT.search(b",".join(preferred)) is not None or _WAIT_IN_QUERY.search(scope["query_string"]) is not None


_WAIT = re.compile(rb"(?:^|,)\s*wait\s*(?:[=;,]|$)", re.IGNORECASE)
_WAIT_IN_QUERY = re.compile(rb"(?:^|&)wait=")

DELETES_A_JOB = ("DELETE", "/v1/jobs/{job_id}")
"""A job that runs is called off first: it waits for a step of a worker, which may take seconds."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Anybody may invent a method; a label must not grow with them."""
