"""The words of the commands that copy the data folder of `darkroom up`. Each command imports its work when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Data, Overwrite


def add_to(app: typer.Typer) -> None:
    """Give the commands to the root command."""
    for command in (backup, restore):
        app.command()(command)


def backup(
    file: Annotated[Path, typer.Argument(help="Where it goes. It is readable for you alone: it holds keys.")],
    data: Data = Path("data"),
    overwrite: Overwrite = False,
) -> None:
    """Write jobs, pictures and keys of `darkroom up` into one file, while it runs or not.

    \b
    darkroom backup darkroom-2026-11-27.tar
    """
    from app.cli.backup import backup

    raise typer.Exit(backup(file, data=data, overwrite=overwrite))


def restore(
    file: Annotated[Path, typer.Argument(help="What `darkroom backup` wrote.")],
    data: Data = Path("data"),
) -> None:
    """Make a data folder of a backup. The folder must be new or empty.

    \b
    darkroom restore darkroom-2026-11-27.tar --data data
    darkroom up --data data
    """
    from app.cli.backup import restore

    raise typer.Exit(restore(file, data=data))
