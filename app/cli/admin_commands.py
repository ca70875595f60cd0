"""The words of `darkroom admin`. Each command imports its work when it runs."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from app.cli import completing
from app.cli.confirming import confirm
from app.cli.defaults import DEFAULT_URL
from app.cli.job_commands import Unfinished
from app.cli.options import WHICH_JOB, Access, ApiKey, AsJson, TokenOf, Url
from app.cli.words import Words, one_of

admin = Words(
    help="The operator's view of a running service: everybody's queue, models and workers. Needs a key of scope admin.",
    no_args_is_help=True,
)

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

OfModel = Annotated[str | None, typer.Option(help="Only of this model.", autocompletion=completing.models)]
TheWorker = Annotated[str, typer.Argument(metavar="WORKER", autocompletion=completing.workers)]
TheModel = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=completing.models)]
Most = Annotated[int, typer.Option(help="How many at most.", min=1, max=100_000)]


def _length(text: str) -> float:
    """90, 90s, 30m, 2h or 1d in seconds."""
    found = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]+)?)([smhd]?)", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time; write 90s, 30m, 2h or 1d")
    return float(found[1]) * SECONDS[found[2]]


@admin.command()
def queue(
    model: OfModel = None,
    limit: Most = 100,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Show who has jobs that wait or run, with what they cost, the most costly first."""
    from app.cli.admin import show_queue

    raise typer.Exit(show_queue(model=model, limit=limit, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def workers(
    model: OfModel = None,
    limit: Most = 1_000,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Show the workers: what each serves and is at, how full and how fast it is."""
    from app.cli.admin import show_workers

    raise typer.Exit(show_workers(model=model, limit=limit, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def models(as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None, data: TokenOf = None) -> None:
    """Show the models with their queues, and which are paused."""
    from app.cli.admin import show_models

    raise typer.Exit(show_models(as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def pause(
    model: TheModel,
    refuse: Annotated[bool, typer.Option("--refuse", help="Take no further jobs. Else they come in and wait.")] = False,
    length: Annotated[
        float | None,
        typer.Option("--for", metavar="TIME", parser=_length, help="End by itself after 90s, 30m, 2h or 1d."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Shown to callers who wait.")] = "",
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Have no worker take jobs of a model. What runs goes on to its end.

    \b
    darkroom admin pause sd-turbo --for 30m --reason "new weights"
    darkroom admin pause sd-turbo --refuse
    """
    from app.cli.admin_changes import pause_model

    body = {"accepts": not refuse, "seconds": length, "reason": reason}
    raise typer.Exit(pause_model(model, body, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def resume(
    model: TheModel, as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None, data: TokenOf = None
) -> None:
    """Have workers take jobs of a model again."""
    from app.cli.admin_changes import resume_model

    raise typer.Exit(resume_model(model, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def drain(
    worker: TheWorker,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has left.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Have a worker take no more jobs, finish those that it has, and leave. `up` does not start it again."""
    from app.cli.admin_changes import drain_worker

    raise typer.Exit(drain_worker(worker, wait=wait, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def undrain(
    worker: TheWorker, as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None, data: TokenOf = None
) -> None:
    """Take a drain back: the worker takes jobs again, as long as it has not left."""
    from app.cli.admin_changes import undrain_worker

    raise typer.Exit(undrain_worker(worker, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def cancel(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose jobs, as `admin queue` shows it.")],
    status: Annotated[Unfinished | None, typer.Option(help="Only in this state.", **one_of(Unfinished))] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Call all unfinished jobs of a caller off."""
    from app.cli.admin_changes import cancel_jobs

    if not yes:
        which = f" {status.value}" if status else " unfinished"
        confirm(f"Call all{which} jobs of {tenant} off?")
    raise typer.Exit(cancel_jobs(tenant, status and status.value, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def dead(
    limit: Most = 100, as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None, data: TokenOf = None
) -> None:
    """Show everybody's jobs that lost a worker with every attempt, with their last error."""
    from app.cli.admin import show_dead

    raise typer.Exit(show_dead(limit=limit, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def retry(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help=WHICH_JOB, autocompletion=completing.dead_jobs)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead jobs.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Run anybody's failed job again, or all dead ones: as new jobs of their owners, with the same parameters."""
    from app.cli.admin_changes import retry_all, retry_job

    if every is (job is not None):
        raise typer.BadParameter("name a job, or say --all for all dead ones")
    if job is None:
        raise typer.Exit(retry_all(as_json=as_json, access=Access(url, api_key, data)))
    raise typer.Exit(retry_job(job, as_json=as_json, access=Access(url, api_key, data)))


@admin.command()
def audit(
    limit: Most = 100,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, as the API writes it.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Show what operators have changed, the latest first: when, with which key, what, and what came of it."""
    from app.cli.admin import show_audit

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two forms of the same; take one")
    raise typer.Exit(show_audit(limit=limit, as_csv=as_csv, as_json=as_json, access=Access(url, api_key, data)))
