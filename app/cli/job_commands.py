"""The words of `darkroom jobs`. Each command imports its work when it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli import completing
from app.cli.defaults import DEFAULT_URL
from app.cli.options import WHICH_JOB, ApiKey, AsJson, Data, JobId, Url
from app.cli.words import Words, one_of

jobs = Words(help="Jobs: yours at a running service, and the dead on its machine.", no_args_is_help=True)

JobIds = Annotated[list[str], typer.Argument(metavar="JOB", help=f"Each: {WHICH_JOB}", autocompletion=completing.jobs)]


class State(StrEnum):
    """app.contract.messages.events.Status, spelled here so that --help needs no pydantic; a test keeps them equal."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    canceled = "canceled"


class Unfinished(StrEnum):
    """The states of a job that can be called off."""

    queued = "queued"
    running = "running"


@jobs.command("list")
def list_jobs(
    status: Annotated[State | None, typer.Option(help="Only jobs in this state.", **one_of(State))] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List your jobs, newest first.

    \b
    darkroom jobs list --status failed
    darkroom jobs list --limit 100 --json
    """
    from app.cli.jobs import list_jobs

    raise typer.Exit(list_jobs(status=status and status.value, limit=limit, as_json=as_json, url=url, api_key=api_key))


@jobs.command()
def show(job_id: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Show one job: parameters, times, pictures, errors."""
    from app.cli.jobs import show_job

    raise typer.Exit(show_job(job_id, as_json=as_json, url=url, api_key=api_key))


@jobs.command()
def cancel(
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help=f"Each: {WHICH_JOB}", autocompletion=completing.jobs),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of yours that are not over.")] = False,
    status: Annotated[
        Unfinished | None, typer.Option(help="With --all: only in this state.", **one_of(Unfinished))
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Call jobs off. A queued one ends at once, a running one within a step.

    \b
    darkroom jobs cancel 0123abcd 89ef
    darkroom jobs cancel --all --status queued
    """
    from app.cli.jobs import cancel_all_jobs, cancel_jobs

    if every is bool(job_ids):
        raise typer.BadParameter("name the jobs, or say --all for all of yours that are not over")
    if status and not every:
        raise typer.BadParameter("--status goes with --all")
    if job_ids:
        raise typer.Exit(cancel_jobs(job_ids, as_json=as_json, url=url, api_key=api_key))
    raise typer.Exit(cancel_all_jobs(status=status and status.value, as_json=as_json, url=url, api_key=api_key))


@jobs.command()
def delete(job_ids: JobIds, as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Delete jobs with their pictures, for good. One that is not over is canceled first."""
    from app.cli.jobs import delete_jobs

    raise typer.Exit(delete_jobs(job_ids, url=url, api_key=api_key, as_json=as_json))


@jobs.command()
def watch(
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="As for `show`; none: all unfinished.", autocompletion=completing.jobs),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON at every change.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Watch jobs until they are over. Ctrl-C ends the watching only.

    \b
    darkroom jobs watch
    darkroom jobs watch 0123abcd --json
    """
    from app.cli.watch import watch_jobs

    raise typer.Exit(watch_jobs(job_ids or [], as_json=as_json, url=url, api_key=api_key))


@jobs.command()
def dead(as_json: AsJson = False, data: Data = Path("data")) -> None:
    """On the service's machine: list everybody's jobs that lost a worker with every attempt, with their last error."""
    from app.cli.dead import dead

    raise typer.Exit(dead(data=data, as_json=as_json))


@jobs.command()
def retry(job_id: JobId, as_json: AsJson = False, data: Data = Path("data")) -> None:
    """On the service's machine: run a failed job again, as a new job with the same parameters."""
    from app.cli.dead import retry

    raise typer.Exit(retry(job_id, data=data, as_json=as_json))
