"""How full the queue is, for Prometheus: asked of Redis at every scrape, the same at every gateway.

Never a label per job, prompt or tenant. Refuses to know requests: those are counted in app/edge/metrics.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.contract.redis.lost_jobs import AcceptedJobs
from app.contract.redis.overview import Overview
from app.contract.redis.queue_stats import QueueStats
from app.jobs.follow import Feed
from app.jobs.model_registry import ModelRegistry

ASK_SECONDS = 5.0


class QueueMetrics(Collector):
    """Made in the loop that `feed`, `registry` and `stats` belong to; collected in any thread.

    `process` labels what is this process's own.
    """

    def __init__(
        self,
        *,
        process: str,
        feed: Feed,
        registry: ModelRegistry,
        stats: QueueStats,
        overview: Overview,
        accepted: AcceptedJobs,
    ) -> None:
        self._process = process
        self._accepted = accepted
        self._feed = feed
        self._registry = registry
        self._stats = stats
        self._overview = overview
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        """Called in a thread. While Redis is away, only `darkroom_redis_up` is left, and is 0."""
        streams = GaugeMetricFamily("darkroom_streams", "Open waits and event streams", labels=["process"])
        streams.add_metric([self._process], self._feed.listeners)
        yield streams
        lost = CounterMetricFamily("darkroom_jobs_lost", "Accepted jobs that Redis has lost", labels=["process"])
        lost.add_metric([self._process], self._accepted.lost)
        yield lost
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            families = asked.result(ASK_SECONDS)
        except (redis.RedisError, TimeoutError):
            asked.cancel()
            families = []
        yield _gauge("darkroom_redis_up", "Whether Redis answers", bool(families))
        yield from families

    async def _ask(self) -> list[Metric]:
        depth = GaugeMetricFamily("darkroom_queue_depth", "Jobs that wait", labels=["model"])
        running = GaugeMetricFamily("darkroom_model_jobs_running", "Jobs that a worker owns", labels=["model"])
        oldest = GaugeMetricFamily(
            "darkroom_queue_wait_seconds", "Age of the longest waiting job", labels=["model", "priority"]
        )
        unserved = GaugeMetricFamily(
            "darkroom_queue_unserved_seconds", "Since when jobs wait and none was claimed", labels=["model"]
        )
        workers = GaugeMetricFamily("darkroom_workers", "Workers heard of lately", labels=["model"])
        having = GaugeMetricFamily("darkroom_workers_in_memory", "Of those, that have it in memory", labels=["model"])
        seats = GaugeMetricFamily("darkroom_seats_served", "Seats of all workers that have it", labels=["model"])
        paused = GaugeMetricFamily("darkroom_model_paused", "1 while nobody claims its jobs", labels=["model"])
        pace = GaugeMetricFamily("darkroom_job_seconds", "Moving average of how long a job runs", labels=["model"])
        deadlines = CounterMetricFamily(
            "darkroom_deadlines", "Jobs with a deadline that are over: met or missed", labels=["model", "outcome"]
        )
        for name, model in (await self._registry.models()).items():
            waiting = await self._stats.waiting(name)
            depth.add_metric([name], waiting.jobs)
            running.add_metric([name], await self._stats.running(name))
            oldest.add_metric([name, "interactive"], waiting.interactive_seconds)
            oldest.add_metric([name, "batch"], waiting.batch_seconds)
            unserved.add_metric([name], waiting.unserved_seconds)
            workers.add_metric([name], model.workers)
            having.add_metric([name], model.in_memory)
            seats.add_metric([name], model.in_memory * model.card.seats)
            paused.add_metric([name], model.paused is not None)
            for outcome, jobs in (await self._stats.deadlines(name)).items():
                deadlines.add_metric([name, outcome], jobs)
            if model.pace_ms is not None:
                pace.add_metric([name], model.pace_ms / 1000)
        counts, draining = await self._stats.counts(), await self._overview.draining()
        plain = [
            _gauge("darkroom_jobs_running", "Jobs that a worker owns", counts.running),
            _gauge("darkroom_jobs_dead", "Jobs that used up their attempts and were not retried", counts.dead),
            _gauge("darkroom_workers_draining", "Workers that leave with their last job", draining),
            _gauge("darkroom_webhooks_owed", "Webhook messages not delivered yet", counts.webhooks_owed),
        ]
        used = _gauge("darkroom_redis_memory_ratio", "Part of Redis' memory in use", await self._registry.memory_used())
        return [depth, running, oldest, unserved, workers, having, seats, paused, pace, deadlines, used, *plain]


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=float(value))
