"""Beside which queues RQ shows a worker, where what it serves changes: `rq info` and dashboards go by it.

Knows RQ's registration of workers. Refuses to know what is served, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from rq.worker.base import BaseWorker
from rq.worker_registration import register, unregister


def enter_queues(worker: BaseWorker, names: Sequence[str]) -> None:
    """From now on these queues, if they are others than before. Raises redis.RedisError."""
    if set(names) == set(worker.queue_names()):
        return
    unregister(worker)
    worker.queues = [worker.queue_class(name, connection=worker.connection, serializer="json") for name in names]
    register(worker)
    worker.connection.hset(worker.key, "queues", ",".join(names))
