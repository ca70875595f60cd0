"""The words of `darkroom inputs`. Each command imports its work when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.confirming import confirm
from app.cli.defaults import DEFAULT_URL
from app.cli.options import ApiKey, AsJson, Url
from app.cli.words import Words

inputs = Words(help="Pictures that you sent in, to draw from.", no_args_is_help=True)


@inputs.command("list")
def list_inputs(
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List the pictures that you sent in, newest first.

    \b
    darkroom inputs list --limit 100 --json
    """
    from app.cli.inputs import list_inputs

    raise typer.Exit(list_inputs(limit=limit, as_json=as_json, url=url, api_key=api_key))


@inputs.command()
def delete(
    input_ids: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT", help="Each: the id, or the SHA-256 of its file.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of yours that no unfinished job needs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Delete pictures that you sent in, for good. What was drawn from them stays, and cannot be drawn again.

    \b
    darkroom inputs delete in_0123456789abcdef01234567
    darkroom inputs delete --all
    """
    from app.cli.inputs import delete_all_inputs, delete_inputs

    if every is bool(input_ids):
        raise typer.BadParameter("name the pictures, or say --all for all of yours that no unfinished job needs")
    if yes and not every:
        raise typer.BadParameter("--yes goes with --all")
    if input_ids:
        raise typer.Exit(delete_inputs(input_ids, as_json=as_json, url=url, api_key=api_key))
    if not yes:
        confirm("Delete all pictures that you sent in?")
    raise typer.Exit(delete_all_inputs(as_json=as_json, url=url, api_key=api_key))
