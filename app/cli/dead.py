"""`darkroom jobs dead` and `retry`: jobs that used up their attempts, for operators on the service's machine.

Reads the service's own Redis. Refuses to know tenants' keys: whoever can reach Redis may see everybody's jobs.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis.asyncio

from app.cli.client import CommandError, complain
from app.cli.exits import OK, REFUSED
from app.cli.keys import with_redis
from app.cli.tables import print_table
from app.cli.which_job import meant, the_one
from app.contract.messages.audit import Operator
from app.contract.messages.job import Record, is_job_id
from app.contract.redis import keys
from app.contract.redis.operations import Operations
from app.contract.redis.overview import Overview
from app.contract.redis.store import JobStore
from app.jobs.retries import REFUSALS, Retries
from app.jobs.schemas import JobView
from app.settings import settings_from_env

SHOWN = 100
SCANNED = 1_000
"""Keys of one call, whoever's: a millisecond of Redis' time."""


def dead(*, data: Path, as_json: bool) -> int:
    """Print the jobs that used up their attempts, the latest first, with their last error. Returns the exit code."""

    async def work(client: redis.asyncio.Redis) -> int:
        found = [record for record, _ in await Overview(client).dead(limit=SHOWN)]
        if as_json:
            print(json.dumps({"object": "list", "data": [_view(record) for record in found], "next_cursor": None}))
        elif found:
            _print(found)
        else:
            print("no dead jobs", file=sys.stderr)
        return OK

    return with_redis("jobs", data, work)


def retry(given: str, *, data: Path, as_json: bool) -> int:
    """Run a failed job again as a new one and print the new id; the same id however often it is asked for."""

    async def work(client: redis.asyncio.Redis) -> int:
        try:
            job_id = await _anybodys(client, given)
        except CommandError as error:
            return complain("jobs", error)
        settings, store = settings_from_env(), JobStore(client)
        retries = Retries(
            store,
            Overview(client),
            Operations(client),
            queue_limit=settings.queue_limit,
            tenant_limit=settings.tenant_limit,
            cell=settings.cell,
        )
        done = await retries.one(job_id, Operator())
        if done.refusal:
            print(f"darkroom jobs: {job_id}: {REFUSALS[done.refusal]}", file=sys.stderr)
            return REFUSED
        owner = await client.hget(keys.JOB + done.new_id, "tenant")
        record = await store.get(done.new_id, str(owner)) if as_json else None
        print(done.new_id if record is None else json.dumps(_view(record)))
        return OK

    return with_redis("jobs", data, work)


async def _anybodys(client: redis.asyncio.Redis, given: str) -> str:
    """The id of the job that is meant, whoever's it is. Raises CommandError."""
    wanted = meant(given)
    if wanted.is_whole:
        return wanted.id
    names = [str(key) async for key in client.scan_iter(f"{keys.JOB}{wanted.id}*", count=SCANNED)]
    ids = sorted({name for name in (key.removeprefix(keys.JOB) for key in names) if is_job_id(name)})
    return the_one(wanted.id, [(each, str(await client.hget(keys.JOB + each, "tenant"))) for each in ids])


def _view(record: Record) -> dict[str, Any]:
    """As the API shows it, and whose it is; links without an address, because nobody asked for one here."""
    view = JobView.of(record, base="", links=dict.fromkeys(record.object_keys, ""))
    return {"tenant": record.tenant, **view.model_dump(mode="json")}


def _print(found: list[Record]) -> None:
    rows = []
    for record in found:
        ended = datetime.fromtimestamp((record.ended_ms or 0) / 1000, UTC).isoformat(timespec="seconds")
        error = f"{record.error.slug}: {record.error.detail}" if record.error else ""
        rows.append((record.id, ended, record.tenant, record.model, error))
    print_table(("job", "ended", "tenant", "model", "error"), rows)
