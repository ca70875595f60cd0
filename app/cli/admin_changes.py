"""`darkroom admin pause|resume|drain|undrain|cancel|retry`: what the service does for operators.

Each may be said again. The service decides who may. What is printed says what has become of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from app.cli.admin import pause_words
from app.cli.admin_answers import (
    DEAD,
    DRAIN,
    MODEL,
    PAGE,
    RERUN,
    RERUNS,
    WORKER,
    Row,
    change,
    converse_as_operator,
    list_all,
    models_of,
    require,
    unless_forbidden,
)
from app.cli.answers import CANCELLATION
from app.cli.client import Refused, Service
from app.cli.exits import FAILED, OK
from app.cli.jobs import CALLED_OFF, call_all_off
from app.cli.options import Access
from app.cli.paging import pages
from app.cli.plain import plain
from app.cli.which_job import meant, the_one

MOST_WORKERS = 100_000
"""Of the list, which the service gives in pages: all that there are."""

STAYING = ("serving", "starting")
"""States of workers that take jobs, or will."""

LAST_ONE = (
    "no other worker serves {}: its jobs wait until one is started again; one of `darkroom up` comes with the next "
    "`darkroom up`"
)

LOOK_SECONDS = 1.0
"""Between two questions whether a drained worker has left."""


def pause_model(model: str, body: Mapping[str, Any], *, as_json: bool, access: Access) -> int:
    """Have its jobs wait. Returns the exit code."""
    return _change_model("pause", model, body, as_json=as_json, access=access)


def resume_model(model: str, *, as_json: bool, access: Access) -> int:
    """Have its jobs claimed again. Returns the exit code."""
    return _change_model("resume", model, {}, as_json=as_json, access=access)


def _change_model(way: str, model: str, body: Mapping[str, Any], *, as_json: bool, access: Access) -> int:
    async def work(service: Service) -> int:
        before = await unless_forbidden(models_of(service)) if way == "resume" else None
        row = await change(service, f"models/{quote(model, safe='')}/{way}", MODEL, body)
        was_paused = before is None or any(each["paused"] for each in before if each["id"] == row["id"])
        waiting = f"{row['waiting']} waiting, {row['running']} running"
        taken = "its jobs are taken" if was_paused else "was not paused; its jobs are taken as before"
        said = f"paused ({pause_words(row['paused'])})" if row["paused"] else taken
        print(json.dumps(row, indent=2) if as_json else plain(f"{row['id']}: {said}; {waiting}"))
        return OK

    return converse_as_operator(f"admin {way}", access, work)


def drain_worker(worker: str, *, wait: bool, as_json: bool, access: Access) -> int:
    """Have it leave with its last job; with `wait`, see it leave. Returns the exit code, 1 if that was taken back."""

    async def work(service: Service) -> int:
        # Asked before: one without jobs has left by the time that it is told.
        looking = _workers_of(service)
        alone = _served_by_it_alone(worker, (await looking if wait else await unless_forbidden(looking)) or [])
        row = await change(service, f"workers/{quote(worker, safe='')}/drain", DRAIN, {})
        if alone:
            print(f"darkroom admin drain: warning: {LAST_ONE.format(plain(', '.join(alone)))}", file=sys.stderr)
        while wait and row["state"] not in ("left", "serving"):
            await asyncio.sleep(LOOK_SECONDS)
            # A drain that is said again would undo what somebody else has said meanwhile.
            row = row | {"state": await _state_of(service, worker)}
        said = {"left": "has left", "serving": "takes jobs again: its drain was taken back"}
        words = said.get(row["state"], "takes no more jobs, and leaves with its last one")
        print(json.dumps(row, indent=2) if as_json else plain(f"{worker} {words}"))
        return FAILED if row["state"] == "serving" else OK

    return converse_as_operator("admin drain", access, work)


def _served_by_it_alone(worker: str, rows: Sequence[Row]) -> list[str]:
    """The models that no other worker serves, or is about to."""
    others = {name for row in rows if row["name"] != worker and row["state"] in STAYING for name in row["models"]}
    return [name for row in rows if row["name"] == worker for name in row["models"] if name not in others]


async def _workers_of(service: Service) -> list[Row]:
    return await list_all(service, "workers", WORKER, limit=MOST_WORKERS)


async def _state_of(service: Service, worker: str) -> str:
    """As the service has it, which says `starting` of a drained one too; `left` of one that it has no more."""
    try:
        found = await service.ask("GET", f"/v1/admin/workers/{quote(worker, safe='')}")
    except Refused as refusal:
        if refusal.slug == "worker-not-found":
            return "left"
        if refusal.slug != "not-found":
            raise
        # A gateway of an earlier version has the list alone.
        return next((str(row["state"]) for row in await _workers_of(service) if row["name"] == worker), "left")
    return str(require(service, found, WORKER)["state"])


def undrain_worker(worker: str, *, as_json: bool, access: Access) -> int:
    """Have it take jobs again. Returns the exit code."""

    async def work(service: Service) -> int:
        row = await change(service, f"workers/{quote(worker, safe='')}/undrain", DRAIN, {})
        said = "takes jobs again" if row["state"] == "serving" else "starts, and takes jobs then"
        print(json.dumps(row, indent=2) if as_json else plain(f"{worker} {said}"))
        return OK

    return converse_as_operator("admin undrain", access, work)


def cancel_jobs(tenant: str, status: str | None, *, as_json: bool, access: Access) -> int:
    """Call its unfinished jobs off. Returns the exit code."""

    async def work(service: Service) -> int:
        path = f"tenants/{quote(tenant, safe='')}/cancel"
        told, has_more = await call_all_off(lambda: change(service, path, CANCELLATION, {"status": status}))
        counts = {name: [job for job in told if told[job] == name] for name in CALLED_OFF}
        if as_json:
            print(json.dumps({"object": "cancellation", **counts, "has_more": has_more}, indent=2))
        elif told:
            print(f"{len(counts['canceled'])} canceled, {len(counts['requested'])} stop within a step")
        else:
            print(plain(f"{tenant} has no {status or 'unfinished'} jobs"))
        if has_more:
            print("there are more, say it again in a moment", file=sys.stderr)
        return FAILED if has_more else OK

    return converse_as_operator("admin cancel", access, work)


def retry_job(given: str, *, as_json: bool, access: Access) -> int:
    """Run a failed job again and print the new id; a short id is one of a dead job. Returns the exit code."""

    async def work(service: Service) -> int:
        wanted = meant(given)
        job_id = wanted.id
        if not wanted.is_whole:
            rows = await list_all(service, "dead", DEAD, limit=PAGE)
            job_id = the_one(wanted.id, [(row["id"], row["tenant"]) for row in rows if row["id"].startswith(wanted.id)])
        row = await change(service, f"jobs/{job_id}/retry", RERUN, {})
        print(json.dumps(row, indent=2) if as_json else str(row["id"]))
        return OK

    return converse_as_operator("admin retry", access, work)


def retry_all(*, as_json: bool, access: Access) -> int:
    """Run all dead jobs again, and say which cannot be. Returns the exit code, 1 if there are some."""

    async def work(service: Service) -> int:
        rows: list[Row] = []
        async for answer in pages(lambda cursor: change(service, "dead/retry", RERUNS, {"cursor": cursor})):
            rows += answer["data"]
        if as_json:
            print(json.dumps({"object": "list", "data": rows, "next_cursor": None}, indent=2))
        for row in [] if as_json else rows:
            print(f"{row['retry_of']}  {row['id'] or plain(row['detail'])}")
        if not rows:
            print("no dead jobs", file=sys.stderr)
        return FAILED if any(row["id"] is None for row in rows) else OK

    return converse_as_operator("admin retry", access, work)
