"""A worker's clients of Redis, each as patient as what hangs on it allows.

A connection can be half dead: its peer swallows what is sent, while new ones work. Only a timeout shows it, and that
must be short beside what it delays. Knows URLs and timeouts; refuses to know what is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from app.contract.redis import clients
from app.contract.redis.durability import cluster_fault, durability_faults
from worker.errors import CannotStart
from worker.settings import WorkerSettings

log = structlog.get_logger()

COMMAND_SECONDS, CONNECT_SECONDS = 5.0, 2.0
"""For claims, progress and ends. Nothing else waits for them; the shorter, because redis-py tries a connect again, and
again for each try of its command, and a worker that is told to stop must be through with that inside its grace."""

LEASE_SECONDS = 3.0
"""A tenth of a lease: several beats on new connections fit into it after one that hangs."""


@dataclass(frozen=True, slots=True)
class Connections:
    """`commands` and `leases` decode, for the scripts; `rq` does not, as RQ wants it.

    They share nothing: what hangs in one of them holds up nobody in another.
    """

    commands: redis.Redis
    leases: redis.Redis
    rq: redis.Redis


def connect(settings: WorkerSettings) -> Connections:
    """The clients; where no job may be forgotten, once Redis has answered. Raises CannotStart for one that may forget
    some, or cannot be the queue."""
    url = settings.redis_url.get_secret_value()
    connections = _clients(url)
    if settings.redis_durability == "ignore":
        if fault := clients.why_refused(url):
            raise CannotStart(fault)
        return connections
    info = _until_answered(connections.commands.info)
    if fault := cluster_fault(info):
        raise CannotStart(fault)
    if faults := durability_faults(info):
        raise CannotStart("; ".join(faults) + ", or accept the loss with DARKROOM_REDIS_DURABILITY=ignore")
    return connections


def _clients(url: str) -> Connections:
    def client(seconds: float, retry: Retry, **options: Any) -> redis.Redis:
        options |= {"socket_timeout": seconds, "socket_connect_timeout": min(seconds, CONNECT_SECONDS), "retry": retry}
        return clients.client(url, **options)

    # The first retry finds a new connection where the old one was dead; for a Redis that is away there are the loops.
    patient = Retry(ExponentialBackoff(cap=1, base=0.05), 2)
    return Connections(
        commands=client(COMMAND_SECONDS, patient, decode_responses=True, health_check_interval=30),
        leases=client(LEASE_SECONDS, Retry(NoBackoff(), 0), decode_responses=True),
        rq=client(COMMAND_SECONDS, patient, health_check_interval=30),
    )


def _until_answered(ask: Callable[[], Any]) -> Any:
    """Redis may come up after us. Wait for it and say so."""
    said = 0.0
    while True:
        try:
            return ask()
        except redis.RedisError as error:
            if time.monotonic() - said > 10:
                said = time.monotonic()
                log.warning("waiting for redis: start it, or set REDIS_URL", reason=str(error))
            time.sleep(0.5)
