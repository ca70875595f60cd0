"""The words of `darkroom`. Each command imports what it needs when it runs: `--help` answers at once."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

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

PROCESSES = "darkroom.processes"
"""Entry points that run a process. So the gateway's install finds the worker without importing its room."""

Port = Annotated[int | None, typer.Option(help="Port of the gateway.", min=1, max=65535)]
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
def gateway(port: Port = None, host: Host = None) -> None:
    """Answer HTTP."""
    _run("gateway", port=port, host=host)


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
    url: Annotated[str, typer.Option(envvar="DARKROOM_URL", help="The service.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="DARKROOM_API_KEY", help="Your key, if it asks.")] = None,
) -> None:
    """Draw a picture and save it.

    Example: darkroom generate "a red circle on a blue background" -o out.png --seed 7
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
    raise typer.Exit(draw(wish, output=output, url=url, api_key=api_key))


@keys.command("webhook-secret")
def webhook_secret(
    tenant: Annotated[str, typer.Option(help="Whose; `default` is everybody on a service without keys.")] = "default",
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; the old one signs too for a day.")] = False,
    data: Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")] = Path("data"),
) -> None:
    """Show the secret that signs webhooks (Standard Webhooks, whsec_)."""
    from app.cli.keys import webhook_secret

    raise typer.Exit(webhook_secret(tenant, rotate=rotate, data=data))


def _run(process: str, **options: object) -> None:
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
