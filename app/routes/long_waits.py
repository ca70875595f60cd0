"""How a request waits for its job that answers with pictures or an error, and what the job's end means to the client.

So do those of OpenAI's and of AUTOMATIC1111's clients. Refuses to know how a job came in, and how it is shown.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from app.contract.messages.events import Status
from app.contract.messages.job import Record
from app.contract.redis.streams import Entry
from app.edge import errors
from app.jobs.model_choice import refuse_if_away
from app.routes.joining import Waiting
from app.services import Services

LONGEST_WAIT = 590.0
"""Seconds. OpenAI's clients give up after 600 by themselves; an answer before that says to try again, and join."""

FINAL_HEADERS = {"x-should-retry": "false"}
"""OpenAI's clients would repeat a 409 or a 500, and here that would be another job with the same end."""


async def until_end(services: Services, waiting: Waiting) -> Record:
    """The record once the job is over, or after LONGEST_WAIT. Raises ModelAway when nobody is there to draw it."""
    async for _ in events(services, waiting, watched=False):
        pass
    return await services.jobs.get(waiting.record.id, waiting.record.tenant) or waiting.record


async def events(services: Services, waiting: Waiting, *, watched: bool) -> AsyncIterator[Entry | None]:
    """What happens to the job until it is over, at most for LONGEST_WAIT; None now and then, as a sign of life.
    `watched` is that of Feed.follow.

    Raises ModelAway when nobody is there to draw it, redis.RedisError while Redis is away.
    """
    record, ends = waiting.record, time.monotonic() + LONGEST_WAIT
    if record.status.is_terminal:
        return
    async with services.feed.follow({record.id: "0-0"}, watched=watched) as following:
        async for news in following.events(until=ends):
            if news is None:
                await waiting.go_on()
                await refuse_if_abandoned(services, await services.jobs.get(record.id, record.tenant) or record)
            yield news and news[1]


async def refuse_if_abandoned(services: Services, record: Record) -> None:
    """A job that waits while its model has been away for too long: it goes on waiting, but nobody waits with it."""
    model = (await services.registry.models()).get(record.model)
    if record.status is Status.QUEUED and model is not None:
        refuse_if_away(model)


def succeeded(record: Record) -> Record:
    """The record, if it has its pictures. Raises the problem that says how the job ended otherwise."""
    if record.status is Status.SUCCEEDED:
        return record
    if record.status is Status.FAILED:
        said = record.error.detail if record.error else "The job's record says no more."
        if record.error and record.error.slug == errors.ContentBlocked.slug:
            raise errors.ContentBlocked(said, headers=FINAL_HEADERS)
        raise errors.JobFailed(said, headers=FINAL_HEADERS)
    if record.status is Status.CANCELED:
        raise errors.JobWasCanceled("The job was called off before it had pictures.", headers=FINAL_HEADERS)
    raise errors.JobUnfinished("The job goes on: send the same request again to join it.", retry_after=1)
