"""Calls off what a command began, when a Ctrl-C ends it, and says what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from app.cli.client import CommandError, Job, Refused, Service, is_terminal

CANCEL_SECONDS = 5.0
"""How long a Ctrl-C waits for the service to hear of it."""

OVER = (404, 409)
"""Refusals that say that there is nothing to call off. After any other, as of a key's minute, the job goes on."""


async def call_off(service: Service, submissions: Iterable[asyncio.Task[Job]], under_way: Iterable[str]) -> list[str]:
    """Cancel these jobs and those that are still being sent: what became of each that was accepted, a line each.

    For a task that a Ctrl-C has cancelled, which goes on until this is done.
    """
    if me := asyncio.current_task():
        me.uncancel()
    job_ids, sent = dict.fromkeys(under_way), [*submissions]
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            accepted = await asyncio.gather(*sent, return_exceptions=True)
            job_ids |= {job["id"]: None for job in accepted if isinstance(job, dict)}
    outcomes = await asyncio.gather(*(_cancel(service, job_id) for job_id in job_ids))
    lines = [*_account([*job_ids], outcomes)]
    if any(each.cancelled() for each in sent):
        lines.append("a request was sent and not answered; `darkroom jobs list` shows whether it became a job")
    return lines or ["stopped; no job was under way"]


async def _cancel(service: Service, job_id: str) -> str:
    """'canceled', 'over' if it had ended before, or 'unheard'."""
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            job = await service.cancel(job_id)
            return "canceled" if not is_terminal(job) or job["status"] == "canceled" else "over"
    except Refused as refusal:
        return "over" if refusal.status in OVER else "unheard"
    except (CommandError, TimeoutError):
        return "unheard"


def _account(job_ids: Sequence[str], outcomes: Sequence[str]) -> Iterator[str]:
    """What became of the jobs that were called off."""
    if canceled := outcomes.count("canceled"):
        yield f"canceled {canceled} {'job' if canceled == 1 else 'jobs'}"
    for job_id, outcome in zip(job_ids, outcomes, strict=True):
        if outcome == "over":
            yield f"{job_id} had ended already; `darkroom jobs show {job_id}` shows it"
        elif outcome == "unheard":
            yield f"{job_id} may go on, the service has not called it off; `darkroom jobs cancel {job_id}` does"
