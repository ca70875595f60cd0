"""What a gateway counts, for Prometheus: requests by route, open streams, and how full the queue is.

The queue's figures are the same at every gateway; they are read when they are asked for. Never a label per job, prompt
or tenant, and never a path as it came: only the templates of routes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import redis
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from app.services import Gateway

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
ASK_SECONDS = 5.0
NO_ROUTE = "none"


class GatewayMetrics:
    """One process's counters. `figures` holds the gateway once it is open.

    `process` is a label: several processes answer on one port, and a scrape sees one of them.
    """

    def __init__(self, *, process: int) -> None:
        self._process = str(process)
        self.registry = CollectorRegistry()
        self.figures = _Figures(self._process)
        self.registry.register(self.figures)
        self._requests = Counter(
            "darkroom_http_requests", "Answers", ["method", "route", "status", "process"], registry=self.registry
        )
        self._seconds = Histogram(
            "darkroom_http_first_byte_seconds", "Until the head of the answer; a wait that was asked for counts",
            ["route", "process"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip

    def counted(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answer whose head was sent."""
        self._requests.labels(method, route, str(status), self._process).inc()
        self._seconds.labels(route, self._process).observe(seconds)

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
                self._metrics.counted(method, route, message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, count)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Anybody may invent a method; a label must not grow with them."""


class _Figures(Collector):
    """What Redis knows, asked for at every scrape through the gateway's own loop."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._gateway: Gateway | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, gateway: Gateway) -> None:
        """From the loop that the gateway runs in."""
        self._gateway, self._loop = gateway, asyncio.get_running_loop()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called in a thread. While Redis is away, only `darkroom_redis_up` is left, and is 0."""
        if self._gateway is None or self._loop is None:
            return
        streams = GaugeMetricFamily("darkroom_streams", "Open waits and event streams", labels=["process"])
        streams.add_metric([self._process], self._gateway.feed.listeners)
        yield streams
        asked = asyncio.run_coroutine_threadsafe(self._ask(self._gateway), self._loop)
        try:
            families = asked.result(ASK_SECONDS)
        except (redis.RedisError, TimeoutError):
            asked.cancel()
            families = []
        yield _gauge("darkroom_redis_up", "Whether Redis answers", bool(families))
        yield from families

    async def _ask(self, gateway: Gateway) -> list[GaugeMetricFamily]:
        depth = GaugeMetricFamily("darkroom_queue_depth", "Jobs that wait", labels=["model"])
        oldest = GaugeMetricFamily("darkroom_queue_wait_seconds", "Age of the longest waiting job", labels=["model"])
        workers = GaugeMetricFamily("darkroom_workers", "Workers heard of lately", labels=["model"])
        seats = GaugeMetricFamily("darkroom_seats_served", "Seats of all workers together", labels=["model"])
        pace = GaugeMetricFamily("darkroom_job_seconds", "Moving average of how long a job runs", labels=["model"])
        for name, model in (await gateway.board.models()).items():
            waiting, age = await gateway.figures.waiting(name)
            depth.add_metric([name], waiting)
            oldest.add_metric([name], age)
            workers.add_metric([name], model.workers)
            seats.add_metric([name], model.workers * model.card.seats)
            if model.pace_ms is not None:
                pace.add_metric([name], model.pace_ms / 1000)
        counts = await gateway.figures.counts()
        plain = [
            _gauge("darkroom_jobs_running", "Jobs that a worker owns", counts.running),
            _gauge("darkroom_jobs_dead", "Jobs that used up their attempts and were not retried", counts.dead),
            _gauge("darkroom_webhooks_owed", "Webhook messages not delivered yet", counts.webhooks_owed),
        ]
        used = _gauge("darkroom_redis_memory_ratio", "Part of Redis' memory in use", await gateway.board.memory_used())
        return [depth, oldest, workers, seats, pace, used, *plain]


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=float(value))
