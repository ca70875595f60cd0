"""This process as RQ sees it: a worker on the webhook queue in `rq info` and dashboards. Knows no deliveries."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

import redis
from rq.serializers import JSONSerializer
from rq.worker.base import BaseWorker

from app.contract.redis.rq_names import WEBHOOK_QUEUE
from app.webhooks.relay import DeliveryJob

HEARTBEAT_SECONDS = 10.0
FORGOTTEN_AFTER = 60
"""Seconds without a heartbeat, of which RQ adds another 60, until a killed process leaves the list."""


def process_name() -> str:
    """Unique on every machine and after every restart."""
    return f"webhooks-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class _Listed(BaseWorker):  # type: ignore[misc]  # RQ says nothing of its types
    """On RQ's list, and no more."""

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        # RQ would raise its timeout to 55 s, for a blocking pop that is not used here; an exit would wait for that.
        return connection


class Registration:
    """RQ's registration. Synchronous, as RQ is; raises redis.RedisError. `connection` must not decode responses."""

    def __init__(self, connection: redis.Redis, name: str) -> None:
        self._connection = connection
        self._name = name
        self._worker: Any = None

    def renew(self) -> None:
        """Register, or say that we are still here. After an empty Redis came back, it registers again."""
        if self._worker is None:
            self._worker = self._make()
        if self._connection.exists(self._worker.key):
            self._worker.heartbeat(FORGOTTEN_AFTER + 60)
        else:
            self._worker.register_birth()
            self._worker.set_state("busy")

    def leave(self) -> None:
        """Off the list."""
        if self._worker is not None:
            self._worker.register_death()

    def _make(self) -> Any:
        return _Listed(
            [WEBHOOK_QUEUE],
            name=self._name,
            connection=self._connection,
            job_class=DeliveryJob,
            serializer=JSONSerializer,
            worker_ttl=FORGOTTEN_AFTER,
        )
