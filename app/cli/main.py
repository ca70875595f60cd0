"""The words of `darkroom`. Each command imports what it needs when it runs: `--help` answers at once."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app import __version__
from app.contract.environment import PREFIX
from app.contract.exits import CANNOT_START

app = typer.Typer(
    name="darkroom",
    help="Text to image over HTTP. `darkroom up` starts everything on this machine.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

keys = typer.Typer(help="Secrets of the service, on the machine it runs on.", no_args_is_help=True)
app.add_typer(keys, name="keys")

jobs = typer.Typer(help="Jobs that used up their attempts, on the machine the service runs on.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")

PROCESSES = "darkroom.processes"
"""Entry points that run a process. So the gateway's install finds the worker without importing its room."""

Port = Annotated[int | None, typer.Option(help="Port of the gateway.", min=1, max=65535)]
Data = Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")]
Host = Annotated[str | None, typer.Option(help="Address the gateway binds to.")]


def main() -> None:
    """Entry point of the command."""
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
    port: Annotated[int, typer.Option(help="Port of the gateway.", min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address the gateway binds to.")] = "127.0.0.1",
    data: Annotated[Path, typer.Option(help="Folder for jobs, pictures and logs.")] = Path("data"),
    model: Annotated[Path | None, typer.Option(help="Model folder in the diffusers layout.")] = None,
) -> None:
    """Start everything on this machine: Valkey, gateway, worker, webhooks.

    REDIS_URL replaces the embedded Valkey, DARKROOM_STORAGE_URL the local picture folder.
    """
    from app.cli.up import House

    raise typer.Exit(House(data=data, host=host, port=port, model=model).run())


@app.command()
def gateway(
    port: Port = None,
    host: Host = None,
    companion: Annotated[int | None, typer.Option(hidden=True)] = None,
    listener: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Answer HTTP."""
    if companion is None or listener is None:
        _run("gateway", port=port, host=host)
    from app.cli.gateway import run_companion
    from app.cli.lifeline import end_with_parent

    end_with_parent()
    raise typer.Exit(run_companion(companion, listener))


@app.command()
def worker(
    model: Annotated[Path | None, typer.Option(help="Model folder in the diffusers layout.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
) -> None:
    """Hold a model in memory and draw."""
    _run("worker", model=model, device=device)


@app.command()
def webhooks() -> None:
    """Deliver webhooks."""
    _run("webhooks")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("darkroom.png"),
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture.", min=0)] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="num_inference_steps.", min=1)] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="guidance_scale.", min=0)] = None,
    negative: Annotated[str, typer.Option("--negative", help="What the picture should not show.")] = "",
    scheduler: Annotated[str | None, typer.Option(help="One of the model's schedulers.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.", min=1)] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.", min=1)] = None,
    images: Annotated[int, typer.Option("--images", "-n", help="num_images.", min=1)] = 1,
    model: Annotated[str | None, typer.Option(help="One of the served models.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the finished job, with the files' names.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the picture when it is there.")] = False,
    url: Annotated[str, typer.Option(envvar="DARKROOM_URL", help="The service.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="DARKROOM_API_KEY", help="Your key, if it asks.")] = None,
) -> None:
    """Draw a picture and save it.

    Example: darkroom generate "a red circle on a blue background" -o out.png --seed 7

    Exit code 0: saved. 1: the job failed or was canceled. 2: the wish was refused, or the file cannot be written.
    3: no service there.
    """
    from app.cli.generate import draw

    wish = {
        "prompt": prompt,
        "model": model,
        "negative_prompt": negative,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "scheduler": scheduler,
        "seed": seed,
        "num_images": images,
    }
    wish = {name: value for name, value in wish.items() if value is not None}
    raise typer.Exit(draw(wish, output=output, url=url, api_key=api_key, as_json=as_json, show=show))


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="The answer of GET /v1/models.")] = False,
    url: Annotated[str, typer.Option(envvar="DARKROOM_URL", help="The service.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="DARKROOM_API_KEY", help="Your key, if it asks.")] = None,
) -> None:
    """Show what a running service serves.

    Exit code 0: a model is ready. 1: none is. 2: the service refused. 3: no service there.
    """
    from app.cli.models import show_models

    raise typer.Exit(show_models(url=url, api_key=api_key, as_json=as_json))


@app.command()
def doctor(
    data: Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")] = Path("data"),
    port: Annotated[int, typer.Option(help="Port of the gateway.", min=1, max=65535)] = 8000,
    model: Annotated[Path | None, typer.Option(help="Model folder in the diffusers layout.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Look at everything the service needs here, and say what to do about what is missing.

    Exit code 0: nothing is in the way. 1: something is.
    """
    from app.cli.doctor import diagnose

    raise typer.Exit(diagnose(data=data, port=port, model=model, as_json=as_json))


@app.command()
def reproduce(
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP that Darkroom made.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the new picture too.")] = None,
    url: Annotated[str, typer.Option(envvar="DARKROOM_URL", help="The service.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="DARKROOM_API_KEY", help="Your key, if it asks.")] = None,
) -> None:
    """Draw a picture again from the record inside it, and compare.

    Exit code 0: identical. 4: drawn, but different. 1: the job failed. 2: no readable picture of ours, or the service
    refused it. 3: no service there.
    """
    from app.cli.reproduce import reproduce

    raise typer.Exit(reproduce(picture, output=output, url=url, api_key=api_key))


@keys.command("create")
def create_key(
    tenant: Annotated[str, typer.Argument(help="Whose jobs the key sees and sends: a-z, 0-9, - and _.")],
    name: Annotated[str, typer.Option(help="A note for the list.")] = "",
    scopes: Annotated[list[str] | None, typer.Option("--scope", help="read, write; both if missing.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="More are refused with 429.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Unfinished jobs of its tenant; then it adds none.")] = None,
    cost_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Megapixel steps: steps x pixels x images x guidance passes / 2^20.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")] = Path("data"),
) -> None:
    """Make an API key and print it, once. With the first one, the service asks everybody for a key."""
    from app.cli.keys import create

    limits = {"requests_per_minute": requests_per_minute, "jobs": jobs, "cost_per_minute": cost_per_minute}
    raise typer.Exit(create(tenant, data=data, name=name, scopes=tuple(scopes or ("read", "write")), **limits))


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
    data: Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")] = Path("data"),
) -> None:
    """Show the API keys that are not revoked, by their ids."""
    from app.cli.keys import show

    raise typer.Exit(show(data=data, as_json=as_json))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The id, as `keys list` shows it and the key itself says.")],
    data: Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")] = Path("data"),
) -> None:
    """End an API key within a second, with the streams that are open for it."""
    from app.cli.keys import revoke

    raise typer.Exit(revoke(key_id, data=data))


@keys.command("webhook-secret")
def webhook_secret(
    tenant: Annotated[str, typer.Option(help="Whose; `default` is everybody on a service without keys.")] = "default",
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; the old one signs too for a day.")] = False,
    data: Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")] = Path("data"),
) -> None:
    """Show the secret that signs webhooks (Standard Webhooks, whsec_)."""
    from app.cli.keys import webhook_secret

    raise typer.Exit(webhook_secret(tenant, rotate=rotate, data=data))


@jobs.command("dead")
def dead(data: Data = Path("data")) -> None:
    """List jobs that lost a worker with every attempt, with their last error."""
    from app.cli.jobs import dead

    raise typer.Exit(dead(data=data))


@jobs.command("retry")
def retry(job_id: Annotated[str, typer.Argument(help="A failed job.")], data: Data = Path("data")) -> None:
    """Run a failed job again, as a new job with the same parameters."""
    from app.cli.jobs import retry

    raise typer.Exit(retry(job_id, data=data))


def _run(process: str, **options: object) -> NoReturn:
    """Run one of the processes under this command's name, so that `ps` shows it. Options go before the environment."""
    from app.cli.lifeline import end_with_parent

    os.environ |= {f"{PREFIX}{name.upper()}": str(value) for name, value in options.items() if value is not None}
    (found,) = entry_points(group=PROCESSES, name=process)
    try:
        run = found.load()
    except ModuleNotFoundError as error:
        print(f"darkroom {process}: {error.name} is not installed; pip install 'darkroom[worker]'", file=sys.stderr)
        raise typer.Exit(CANNOT_START) from None
    end_with_parent()
    raise typer.Exit(run())
