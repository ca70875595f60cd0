"""Beside which queues RQ shows a worker, where what it serves changes: `rq info` and dashboards go by it.

Knows RQ's registration of workers. Refuses to know what is served, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from rq import Queue
from rq.worker.base import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY, clean_worker_registry, register, unregister


def enter_queues(worker: BaseWorker, names: Sequence[str]) -> None:
    """From now on these queues, if they are others than before. Raises redis.RedisError."""
    if set(names) == set(worker.queue_names()):
        return
    unregister(worker)
    worker.queues = [worker.queue_class(name, connection=worker.connection, serializer="json") for name in names]
    register(worker)
    worker.connection.hset(worker.key, "queues", ",".join(names))


def forget_dead_workers(queue: Queue, *, chance: float) -> None:
    """Have RQ take workers off the queue's list that have died, if `chance`, a number below 1 that was drawn, is as low
    as one worker's share of them: about once for every round of all. RQ looks at each worker for it. If all did so in
    every round, it would take 3 % of Redis' core with a thousand workers, and two thirds with four thousand.
    """
    if chance * queue.connection.scard(WORKERS_BY_QUEUE_KEY % queue.name) < 1:
        clean_worker_registry(queue)
