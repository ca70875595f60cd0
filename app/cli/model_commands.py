"""The words of `darkroom models`. Each command imports its work when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli import completing
from app.cli.defaults import DEFAULT_URL
from app.cli.options import ApiKey, AsJson, Data, Url
from app.cli.words import Words

models = Words(help="Models: what a running service serves, under which names, and what it no longer shall know.")


@models.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show what a running service serves, as `models list` does. Exit code 1: no model is ready."""
    if context.invoked_subcommand is None:
        _show(url, api_key, as_json)
        return
    sources = (context.get_parameter_source(name) for name in ("as_json", "url", "api_key"))
    # By its name: typer bears a click of its own.
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        raise typer.BadParameter(f"options go behind the command: darkroom models {context.invoked_subcommand} …")


@models.command("list")
def list_models(
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show what a running service serves. Exit code 1: no model is ready."""
    _show(url, api_key, as_json)


@models.command("show")
def show_model(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Else the one of requests that name none.", autocompletion=completing.models
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show one model: its schedulers, sizes and limits."""
    from app.cli.models import show_model

    raise typer.Exit(show_model(name, url=url, api_key=api_key, as_json=as_json))


@models.command("forget")
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model, as `darkroom models` shows it.")],
    cancel_jobs: Annotated[bool, typer.Option("--cancel-jobs", help="Call off the jobs that wait for it.")] = False,
    data: Data = Path("data"),
) -> None:
    """Take a model that no worker serves off the list, on the service's machine. Its finished jobs stay.

    \b
    darkroom models forget sd-turbo
    darkroom models forget sd-turbo --cancel-jobs
    """
    from app.cli.models import forget_model

    raise typer.Exit(forget_model(name, cancel_jobs=cancel_jobs, data=data))


@models.command("alias")
def alias(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The further name, such as dall-e-3.")] = None,
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="The model that it shall mean.", autocompletion=completing.models),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the name back.")] = False,
    as_json: AsJson = False,
    data: Data = Path("data"),
) -> None:
    """Give a model a further name, on the service's machine; without a name, show those that were given.

    Requests may use it within a second. It hides no model, and leads to a model, never to another such name. Names of
    DARKROOM_MODEL_ALIASES are not shown here, and go before these.

    \b
    darkroom models alias dall-e-3 starter
    darkroom models alias dall-e-3 --remove
    darkroom models alias
    """
    from app.cli.model_aliases import change_alias, show_aliases

    if name is None or (remove and target is not None) or (target is None and not remove):
        if name is not None or remove or target is not None:
            raise typer.BadParameter("say NAME and MODEL, or NAME and --remove, or nothing for a list")
        raise typer.Exit(show_aliases(data=data, as_json=as_json))
    raise typer.Exit(change_alias(name, None if remove else target, data=data))


@models.command("compose")
def compose(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the whole model is written; a new folder.")],
    decoder: Annotated[Path, typer.Option(help="A StableUnCLIPImg2ImgPipeline, such as unclip-small.")],
    prior: Annotated[Path, typer.Option(help="A folder with a prior and its scheduler, such as Karlo's.")],
    text: Annotated[
        Path | None, typer.Option(help="The CLIP whose text encoder the prior reads with, if that is not beside it.")
    ] = None,
) -> None:
    """Write one StableUnCLIP model from its published parts: a decoder, and a prior from another model.

    \b
    darkroom models compose unclip --decoder stable-diffusion-2-1-unclip-small --prior karlo-v1-alpha \\
        --text clip-vit-large-patch14
    """
    from app.cli.compose import compose

    raise typer.Exit(compose(target, decoder=decoder, prior=prior, text=text))


def _show(url: str, api_key: str | None, as_json: bool) -> None:
    from app.cli.models import show_models

    raise typer.Exit(show_models(url=url, api_key=api_key, as_json=as_json))
