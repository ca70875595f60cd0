"""Names of what can happen to a job, and of the states it can be in. The same words in Redis, SSE and webhooks."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a job stands. A poller sees queued, running, perhaps queued again with more attempts, then one end."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})


class JobEvent(StrEnum):
    """A fact inside the system; a webhook is the same fact sent out."""

    QUEUED = "job.queued"
    STARTED = "job.started"
    PROGRESS = "job.progress"
    PREVIEW = "job.preview"
    RESTARTED = "job.restarted"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELED = "job.canceled"


FINAL_EVENTS = frozenset({JobEvent.SUCCEEDED, JobEvent.FAILED, JobEvent.CANCELED})
"""After one of these a job's stream gets no further entry."""
