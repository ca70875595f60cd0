"""From the outbox to RQ's queue: what a due entry looks like as an RQ job, and the check that none is without one.

RQ carries ids and shows them; the outbox decides. Knows no URL, no receiver and no schedule.
"""

from __future__ import annotations

from typing import Any, NoReturn, cast

import structlog
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from app.contract.redis.outbox import Outbox, Owed
from app.contract.redis.rq_names import WEBHOOK_QUEUE

log = structlog.get_logger()

ENTRY_POINT = "app.webhooks.relay.deliver"
"""The one function a payload on this queue may name."""

BATCH = 200
"""Due entries looked at in one pass, and so about the longest that RQ's list gets: the outbox is the backlog."""


class ForeignPayload(Exception):
    """A payload on the webhook queue that Darkroom did not write. Whoever can write Redis must not run code by it."""


def deliver(entry: str) -> NoReturn:
    """What the payload names. Only `darkroom webhooks` delivers; an RQ worker that took the id by mistake hears so."""
    raise RuntimeError("this queue is not for stock RQ workers: start `darkroom webhooks`; the entry is sent by that")


class DeliveryJob(Job):  # type: ignore[misc]
    """RQ's job with one entry point and nothing else to call. Reading any other raises ForeignPayload."""

    def restore(self, raw_data: dict[Any, Any]) -> None:
        super().restore(raw_data)
        callbacks = (self._success_callback_name, self._failure_callback_name, self._stopped_callback_name)
        if any(callbacks) or self.webhooks or self.instance or self.func_name != ENTRY_POINT:
            raise ForeignPayload("a job on the webhook queue names code that is not Darkroom's; it was not run")


class Relay:
    """Puts due entries on the queue. Any number of processes may do so at once."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def step(self) -> int:
        """One pass; answers how many ids were put on the queue. Raises redis.RedisError."""
        relayed = 0
        for owed in await self._outbox.owed(limit=BATCH):
            if owed.rq_id:
                relayed += await self._outbox.relay(owed, rq_hash(owed))
            else:
                log.error("unreadable outbox entry was taken out", entry=owed.entry[:100])
        return relayed


def rq_hash(owed: Owed) -> dict[str, str | int | bytes]:
    """RQ's own hash of a queued job. Payload and description hold ids, no URL and no prompt."""
    job = DeliveryJob.create(
        ENTRY_POINT,
        args=[owed.entry],
        id=owed.rq_id,
        connection=cast(Any, _NoConnection()),
        origin=WEBHOOK_QUEUE,
        description=f"webhook {owed.entry}",
        status=JobStatus.QUEUED,
        serializer=JSONSerializer,
        timeout=-1,
    )
    return {name: value for name, value in job.to_dict(include_meta=False).items() if value is not None}


class _NoConnection:
    """RQ asks for a connection to build a hash that a script writes."""
