"""`darkroom jobs list|show|cancel|delete`: the caller's own jobs, as the service shows them to every client."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from app.cli.answers import about
from app.cli.client import Job, Service, converse
from app.cli.exits import FAILED, OK
from app.cli.plain import plain
from app.cli.screen import standing
from app.cli.spoken import moment, spoken
from app.cli.tables import print_facts, print_lines
from app.cli.which_job import asked, id_of, ids_of

PAGE = 100
"""Jobs of one answer of the API, at most."""

SHORT = len("job_") + 8
"""Of an id, at least: thousands of jobs seldom share so many digits."""

CALLED_OFF = {"canceled": "canceled", "requested": "stops within a step"}
"""What to say of a job that was called off, by the outcome as the API names it."""

COLOURS = {"succeeded": "green", "failed": "red", "canceled": "yellow", "running": "cyan", "queued": ""}


def list_jobs(*, status: str | None, limit: int, as_json: bool, url: str, api_key: str | None) -> int:
    """Print the newest jobs. Returns the exit code."""

    async def work(service: Service) -> int:
        page: dict[str, Any] = {"next_cursor": None}
        found: list[Job] = []
        while len(found) < limit and (not found or page["next_cursor"]):
            wanted = min(PAGE, limit - len(found))
            page = await service.jobs(status=status, limit=wanted, cursor=page["next_cursor"])
            found += page["data"]
            if not page["data"]:
                break
        if as_json:
            print(json.dumps({"object": "list", "data": found, "next_cursor": page["next_cursor"]}, indent=2))
        else:
            _print_list(found, more=bool(page["next_cursor"]))
        return OK

    return converse("jobs list", url, api_key, work)


def show_job(job_id: str, *, as_json: bool, url: str, api_key: str | None) -> int:
    """Print everything about one job. Returns the exit code."""

    async def work(service: Service) -> int:
        found = await id_of(service, job_id)
        job = await asked(service, found, service.job(found))
        if as_json:
            print(json.dumps(job, indent=2))
        else:
            print_facts(list(_facts(job)))
        return OK

    return converse("jobs show", url, api_key, work)


def cancel_jobs(job_ids: Sequence[str], *, as_json: bool, url: str, api_key: str | None) -> int:
    """Call jobs off; a running one stops within a step. Returns the exit code."""

    async def work(service: Service) -> int:
        for job_id in await ids_of(service, job_ids):
            job = await asked(service, job_id, service.cancel(job_id))
            outcome = "canceled" if job["status"] == "canceled" else "requested"
            print(json.dumps(job) if as_json else f"{job_id}  {CALLED_OFF[outcome]}")
        return OK

    return converse("jobs cancel", url, api_key, work)


def cancel_all_jobs(*, status: str | None, as_json: bool, url: str, api_key: str | None) -> int:
    """Call off all jobs that are not over, or those in this state. Returns the exit code."""

    async def work(service: Service) -> int:
        outcomes, has_more = await call_all_off(lambda: service.cancel_all(status))
        _print_cancellation(outcomes, has_more=has_more, as_json=as_json)
        return FAILED if has_more else OK

    return converse("jobs cancel", url, api_key, work)


async def call_all_off(some: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[dict[str, str], bool]:
    """Call `some` off, as the API does in one request, until all are or nothing goes on. What became of each job, by
    its id, and whether there are more."""
    outcomes: dict[str, str] = {}
    has_more, has_gone_on = True, True
    while has_more and has_gone_on:
        answer = await some()
        told = dict.fromkeys(answer["requested"], "requested") | dict.fromkeys(answer["canceled"], "canceled")
        # A running job is among the answers until its worker has let go of it.
        has_more, has_gone_on = answer["has_more"], not told.keys() <= outcomes.keys()
        outcomes |= told
    return outcomes, has_more


def _print_cancellation(outcomes: Mapping[str, str], *, has_more: bool, as_json: bool) -> None:
    if as_json:
        by_outcome = {name: [job_id for job_id in outcomes if outcomes[job_id] == name] for name in CALLED_OFF}
        print(json.dumps({"object": "cancellation", **by_outcome, "has_more": has_more}, indent=2))
        return
    for job_id, outcome in outcomes.items():
        print(f"{job_id}  {CALLED_OFF[outcome]}")
    if has_more:
        print("there are more, say it again in a moment", file=sys.stderr)
    elif not outcomes:
        print("no job of yours is unfinished", file=sys.stderr)


def delete_jobs(job_ids: Sequence[str], *, url: str, api_key: str | None, as_json: bool) -> int:
    """Remove jobs with their pictures. Returns the exit code."""

    async def work(service: Service) -> int:
        for job_id in await ids_of(service, job_ids):
            await asked(service, job_id, service.delete(f"/v1/jobs/{job_id}"))
            print(json.dumps({"id": job_id, "deleted": True}) if as_json else f"{job_id}  deleted")
        return OK

    return converse("jobs delete", url, api_key, work)


def _print_list(found: Sequence[Job], *, more: bool) -> None:
    if not found:
        print("no jobs; `darkroom generate` makes one", file=sys.stderr)
        return
    # Where all are of one model, it would say so a hundred times.
    several = len({job["model"] for job in found}) > 1
    ids = [job["id"] for job in found]
    print_lines(
        ("job", "status", "created", *(["model"] if several else []), "seconds", "pictures", "prompt"),
        [
            (
                job_id,
                Text(standing(job), COLOURS.get(job["status"], "")),
                moment(job["created_at"]),
                *([plain(job["model"])] if several else []),
                "" if (took := job["timings"].get("total")) is None else f"{took:.1f}",
                f"{len(job['images'])}/{job['input']['num_images']}" if "prompt" in job["input"] else "",
                plain(about(job), 60),
            )
            for job_id, job in zip(_short(ids) if sys.stdout.isatty() else ids, found, strict=True)
        ],
        cut=("status", "model", "prompt"),
        spare=("pictures", "seconds", "model", "created"),
    )
    if more:
        print("there are more; --limit shows them", file=sys.stderr)


def _short(ids: Sequence[str]) -> list[str]:
    """As much of each as tells it from the others: every command takes the beginning of an id."""
    lengths = range(SHORT, max(map(len, ids)))
    length = next((each for each in lengths if len({job_id[:each] for job_id in ids}) == len(ids)), None)
    return [job_id[:length] for job_id in ids]


def _facts(job: Job) -> Iterable[tuple[str, str]]:
    request = job["input"]
    yield "job", job["id"]
    yield "status", standing(job)
    yield ("prompt" if "prompt" in request else "asks"), plain(about(job))
    if asked_for := job.get("requested_model"):
        yield "requested_model", plain(asked_for)
    for name in sorted(request.keys() - {"prompt"}):
        if request[name] not in ("", None):
            yield plain(name), plain(request[name])
    for name in ("created_at", "started_at", "ended_at", "expires_at"):
        if job[name]:
            yield name, moment(job[name])
    if job.get("priority") == "batch":
        yield "priority", "batch"
    if job.get("deadline_at"):
        met = "" if job.get("deadline_met") is None else ", met" if job["deadline_met"] else ", missed"
        yield "deadline", f"{moment(job['deadline_at'])}{met}"
    if job["timings"]:
        yield "seconds", ", ".join(f"{plain(name)} {value:.2f}" for name, value in job["timings"].items())
    if job["attempts"] > 1:
        yield "attempts", str(job["attempts"])
    for name, value in job["metadata"].items():
        yield f"metadata {plain(name)}", plain(value)
    if job["error"]:
        yield "error", plain(f"{job['error']['title']}: {job['error']['detail']}")
    for warning in job["warnings"]:
        yield "warning", spoken(warning)
    for picture in job["images"]:
        previews = picture.get("previews")
        kept = f", {len(previews['steps'])} previews" if previews else ""
        kept += f", {picture['trajectory']['steps']} steps kept" if picture.get("trajectory") else ""
        flagged = ", flagged by the safety checker" if picture.get("nsfw") else ""
        fetched = f"{picture['bytes']} bytes{kept}{flagged}, {plain(picture['url'])}"
        yield f"picture {picture['index']}", f"seed {picture['seed']}, {fetched}"
    for picture in job.get("blocked") or ():
        yield f"picture {picture['index']}", f"seed {picture['seed']}, not shown: the safety checker flagged it"
