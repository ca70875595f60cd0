"""`darkroom jobs`: jobs that used up their attempts, for operators on the service's machine.

Reads the service's own Redis. Refuses to know tenants' keys: whoever can reach Redis may see everybody's jobs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import redis
import redis.asyncio

from app.cli.keys import redis_url
from app.contract.environment import SettingsError
from app.contract.job import Record, is_job_id
from app.contract.store import JobStore
from app.settings import settings_from_env

T = TypeVar("T")

SHOWN = 100

REFUSALS = {
    "missing": "there is no such job; it may have been deleted, or its time of keeping is over",
    "not-failed": "only a failed job can be run again",
    "queue-full": "the queue is full: try again when it is shorter, or raise DARKROOM_QUEUE_LIMIT",
    "tenant-full": "its owner has too many unfinished jobs: wait for some, or raise DARKROOM_TENANT_LIMIT",
}


def dead(*, data: Path) -> int:
    """Print the jobs that used up their attempts, the latest first, with their last error. Returns the exit code."""
    found = _ask(data, lambda store: store.dead(limit=SHOWN))
    if found is None:
        return 1
    for record in found:
        print(_line(record))
    if not found:
        print("no dead jobs", file=sys.stderr)
    return 0


def retry(job_id: str, *, data: Path) -> int:
    """Run a failed job again as a new one and print the new id; the same id however often it is asked for."""
    if not is_job_id(job_id):
        print(f"darkroom jobs: {job_id} is not a job's id; `darkroom jobs dead` lists them", file=sys.stderr)
        return 2
    done = _ask(data, lambda store: store.retry(job_id, None, **_limits()))
    if done is None:
        return 1
    if done.outcome in REFUSALS:
        print(f"darkroom jobs: {job_id}: {REFUSALS[done.outcome]}", file=sys.stderr)
        return 2
    print(done.id)
    return 0


def _limits() -> dict[str, int]:
    settings = settings_from_env()
    return {"queue_limit": settings.queue_limit, "tenant_limit": settings.tenant_limit}


def _line(record: Record) -> str:
    ended = datetime.fromtimestamp((record.ended_ms or 0) / 1000, UTC).isoformat(timespec="seconds")
    error = f"{record.error.slug}: {record.error.detail}" if record.error else ""
    return "  ".join([record.id, ended, record.tenant, record.model, error])


def _ask(data: Path, question: Callable[[JobStore], Awaitable[T]]) -> T | None:
    """The store's answer; None after saying why there is none."""

    async def ask() -> T:
        async with redis.asyncio.Redis.from_url(
            redis_url(data), decode_responses=True, socket_connect_timeout=2
        ) as client:
            return await question(JobStore(client))

    try:
        return asyncio.run(ask())
    except (SettingsError, redis.RedisError, OSError) as error:
        remedy = f"start the service, set REDIS_URL, or name its data folder with --data (now {data})"
        print(f"darkroom jobs: the service's Redis does not answer ({error}); {remedy}", file=sys.stderr)
        return None
