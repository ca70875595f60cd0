"""The words of `darkroom keys`. Each command imports its work when it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.confirming import confirm
from app.cli.options import AsJson, Data
from app.cli.words import Words, one_of

keys = Words(help="Secrets of the service, on the machine it runs on.", no_args_is_help=True)


class Scope(StrEnum):
    """What a key may do."""

    read = "read"
    write = "write"
    admin = "admin"


SCOPE_HELP = "What it may do: read and write if missing. admin: as the operator, with all jobs, models and workers."


@keys.command("create")
def create_key(
    tenant: Annotated[str, typer.Argument(help="Whose jobs the key sees and sends: a-z, 0-9, - and _.")],
    name: Annotated[str, typer.Option(help="A note for the list.")] = "",
    scopes: Annotated[list[Scope] | None, typer.Option("--scope", help=SCOPE_HELP, **one_of(Scope))] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="More are refused with 429.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Unfinished jobs of its tenant; then it adds none.")] = None,
    cost_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Megapixel steps: steps x pixels x images x guidance passes / 2^20.")
    ] = None,
    as_json: AsJson = False,
    data: Data = Path("data"),
) -> None:
    """Make an API key and print it, once. From the first one on, the service asks everybody for a key."""
    from app.cli.keys import create

    limits = {"requests_per_minute": requests_per_minute, "jobs": jobs, "cost_per_minute": cost_per_minute}
    named = {scope.value for scope in scopes or ()}
    own = tuple(scope for scope in ("read", "write") if scope in named) or ("read", "write")
    made = {"name": name, "scopes": own, "admin": Scope.admin.value in named, **limits}
    raise typer.Exit(create(tenant, data=data, as_json=as_json, **made))


@keys.command("list")
def list_keys(
    as_json: AsJson = False,
    data: Data = Path("data"),
) -> None:
    """Show the API keys that are not revoked, by their ids."""
    from app.cli.keys import show

    raise typer.Exit(show(data=data, as_json=as_json))


@keys.command("revoke")
def revoke_key(
    key: Annotated[
        str, typer.Argument(help="Its id, as `keys list` shows it and the key itself says; or a name or tenant of one.")
    ],
    data: Data = Path("data"),
) -> None:
    """End an API key within a second, with the streams that are open for it. After the last one nobody gets in."""
    from app.cli.keys import revoke

    raise typer.Exit(revoke(key, data=data))


@keys.command("open")
def open_again(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    data: Data = Path("data"),
) -> None:
    """Serve this machine without keys again. Refused while there are keys; the next one closes it."""
    from app.cli.keys import open_again

    if not yes:
        confirm("Everybody who reaches the service may use it, without a key. Go on?")
    raise typer.Exit(open_again(data=data))


@keys.command("webhook-secret")
def webhook_secret(
    tenant: Annotated[str, typer.Option(help="Whose; `default` is everybody on a service without keys.")] = "default",
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; the old one signs too for a day.")] = False,
    as_json: AsJson = False,
    data: Data = Path("data"),
) -> None:
    """Show the secret that signs webhooks (Standard Webhooks, whsec_)."""
    from app.cli.keys import webhook_secret

    raise typer.Exit(webhook_secret(tenant, rotate=rotate, data=data, as_json=as_json))
