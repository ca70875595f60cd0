"""The words of `darkroom`. Each command imports what it needs when it runs: `--help` answers at once."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app import __version__
from app.cli import backup_commands, drawing_commands, score_commands, usage_commands
from app.cli.admin_commands import admin
from app.cli.importing import without_collector
from app.cli.input_commands import inputs
from app.cli.job_commands import jobs
from app.cli.key_commands import keys
from app.cli.model_commands import models
from app.cli.options import DEVICE_HELP, AsJson, Data, Devices, Folders, Model, Models, Workers
from app.cli.standard_streams import never_fail_output, output_counts, write_whole
from app.cli.words import Words
from app.contract.common.environment import PREFIX
from app.contract.common.exits import CANNOT_START
from app.contract.common.extras import how_to_install

EXIT_CODES = (
    "Exit codes: 0 done, 1 a job failed or something is in the way, 2 asked for wrongly, 3 no service or no room, "
    "4 reproduced otherwise, 75, 78 and 79 of processes, 130 Ctrl-C."
)

app = Words(
    name="darkroom",
    help="Text to image over HTTP. `darkroom up` starts everything on this machine.",
    no_args_is_help=True,
    add_completion=True,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)

PROCESSES = "darkroom.processes"
"""Entry points that run a process. So the gateway's install finds the worker without importing it."""

Port = Annotated[int | None, typer.Option(help="Port of the gateway. Else DARKROOM_PORT, or 8000.", min=1, max=65535)]
Host = Annotated[str | None, typer.Option(help="Address it binds to. Else DARKROOM_HOST, or 127.0.0.1.")]


def main() -> None:
    """Run the command."""
    write_whole()
    with output_counts():
        app()


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if show:
        typer.echo(f"darkroom {__version__}")
        raise typer.Exit


@app.command()
def up(
    port: Port = None,
    host: Host = None,
    data: Annotated[Path, typer.Option(help="Folder for jobs, pictures and logs.")] = Path("data"),
    model: Models = None,
    folders: Folders = None,
    device: Devices = None,
    workers: Workers = None,
) -> None:
    """Start everything on this machine: Valkey, gateway, workers, webhooks.

    \b
    nothing said               one worker: DARKROOM_MODEL on DARKROOM_DEVICE
    --model A --model B        a worker of each
    --models FOLDER            a worker of all models in it, one of them in
                               memory at a time
    --device cuda:0 --device cuda:1
                               a worker on each, of the one model
    both, and --workers N      N in all; models and devices in turn:
                               A on cuda:0, B on cuda:1, A on ...

    A GPU is taken once, unless it is named once for each that shall share it.

    auto takes the next free GPU, and the CPU where there is none.

    Workers on the CPU share its cores, unless DARKROOM_THREADS says otherwise.

    REDIS_URL replaces the embedded Valkey, DARKROOM_STORAGE_URL the local picture folder.
    Every other setting is honoured as well.
    """
    from app.cli.up import Supervisor
    from app.cli.worker_plan import Asked, paths_in

    _options_go_first(port=port, host=host)
    asked = Asked(tuple(model or ()), tuple(device or ()), workers, paths_in(folders or ""))
    never_fail_output()
    raise typer.Exit(Supervisor(data=data, asked=asked).run())


@app.command()
def gateway(
    port: Port = None,
    host: Host = None,
    gateway_worker: Annotated[int | None, typer.Option(hidden=True)] = None,
    listener: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Answer HTTP."""
    if gateway_worker is None or listener is None:
        _run("gateway", port=port, host=host)
    from app.cli.gateway import run_gateway_worker
    from app.cli.parent_watch import end_with_parent

    end_with_parent()
    raise typer.Exit(run_gateway_worker(gateway_worker, listener))


@app.command()
def worker(
    model: Model = None,
    models: Folders = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
) -> None:
    """Hold a model in memory and draw."""
    _run("worker", model=model, models=models, device=device)


@app.command()
def webhooks() -> None:
    """Deliver webhooks."""
    _run("webhooks")


@app.command()
def doctor(
    data: Data = Path("data"),
    port: Port = None,
    model: Models = None,
    folders: Folders = None,
    device: Devices = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything the service needs here, and say what to do about it. Exit code 1: something is in the way.

    It takes the options of `darkroom up`, and says which workers that would start.
    """
    from app.cli.doctor import diagnose
    from app.cli.worker_plan import Asked, paths_in

    asked = Asked(tuple(model or ()), tuple(device or ()), workers, paths_in(folders or ""))
    raise typer.Exit(diagnose(data=data, port=port, asked=asked, as_json=as_json))


drawing_commands.add_to(app)
score_commands.add_to(app)
usage_commands.add_to(app)
backup_commands.add_to(app)
app.add_typer(admin, name="admin")
app.add_typer(inputs, name="inputs")
app.add_typer(jobs, name="jobs")
app.add_typer(keys, name="keys")
app.add_typer(models, name="models")


def _options_go_first(**options: object) -> None:
    """What was said on the command line replaces what the environment says."""
    os.environ |= {f"{PREFIX}{name.upper()}": str(value) for name, value in options.items() if value is not None}


def _run(process: str, **options: object) -> NoReturn:
    """Run one of the processes under this command's name, so that `ps` shows it."""
    from app.cli.parent_watch import end_with_parent
    from app.cli.private import keep_private

    keep_private()
    _options_go_first(**options)
    (found,) = entry_points(group=PROCESSES, name=process)
    try:
        with without_collector():
            run = found.load()
    except ModuleNotFoundError as error:
        print(f"darkroom {process}: {error.name} is not installed; {how_to_install('worker')}", file=sys.stderr)
        raise typer.Exit(CANNOT_START) from None
    end_with_parent()
    raise typer.Exit(run())
