"""RQ 3.0.0's own names in Redis (rq/defaults.py, rq/registry.py, rq/executions.py), and the names of our queues.

Pinned with the version: the scripts keep RQ's view of an attempt in the same transaction as the record, so `rq info`
never disagrees with it. Scripts get these names beside those of keys.py.
"""

from __future__ import annotations

RQ_QUEUE = "rq:queue:"
RQ_QUEUES = "rq:queues"
RQ_JOB = "rq:job:"
RQ_STARTED = "rq:wip:"
RQ_EXECUTION = "rq:execution:"
RQ_WORKER = "rq:worker:"
RQ_COMMANDS = "rq:pubsub:"
RQ_SUSPENDED = "rq:suspended"

RQ_TTL_SECONDS = 3_600
"""Longer than any lease: RQ's own clean-up must never judge an attempt that the reaper has not judged."""

QUEUE_PREFIX = "generate-"
WEBHOOK_QUEUE = "webhooks"


def queue_name(model: str) -> str:
    """RQ queue of a model. Prefixed, so that no model can take the name of the webhook queue."""
    return QUEUE_PREFIX + model
