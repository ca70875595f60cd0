"""The words of `darkroom usage`. The command imports its work when it runs."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import typer

from app.cli.defaults import DEFAULT_URL
from app.cli.options import Access, ApiKey, AsJson, TokenOf, Url


def _day(text: str) -> date:
    """2026-11-27."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day of the calendar; write one as 2026-11-27") from None


First = Annotated[
    date | None,
    typer.Option("--from", metavar="DAY", parser=_day, help="The first day, UTC. Else 29 days before the last."),
]
Last = Annotated[date | None, typer.Option("--to", metavar="DAY", parser=_day, help="The last day, UTC. Else today.")]


def add_to(app: typer.Typer) -> None:
    """Give the command to the root command."""
    app.command()(usage)


def usage(
    first: First = None,
    last: Last = None,
    everybody: Annotated[bool, typer.Option("--all", help="Of all callers, with a key of the scope admin.")] = False,
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this caller, with a key of the scope admin.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, as the API writes it.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data: TokenOf = None,
) -> None:
    """Show what you have used, by day: jobs, pictures, evaluations, seconds of the device, bytes.

    \b
    darkroom usage
    darkroom usage --from 2026-11-01 --to 2026-11-30 --csv
    darkroom usage --all
    """
    from app.cli.usage import Whose, show_usage

    if everybody and tenant is not None:
        raise typer.BadParameter("--all and --tenant mean different callers; take one")
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two forms of the same; take one")
    whose, access = Whose(everybody, tenant), Access(url, api_key, data)
    if whose.is_own and data is not None:
        raise typer.BadParameter("--data is the operator's, for what others have used: say --all or --tenant, too")
    days = {name: day.isoformat() if day else None for name, day in (("from", first), ("to", last))}
    raise typer.Exit(show_usage(days, whose, as_csv=as_csv, as_json=as_json, access=access))
