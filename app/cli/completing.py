"""What Tab offers that only the service knows: models, schedulers, jobs, workers. In silence, and soon or not at all.

Nothing but plain names is offered: a shell evaluates what it is given, and a service may be anybody's.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.cli.defaults import DEFAULT_URL

if TYPE_CHECKING:
    from app.cli.client import Service

WAIT_SECONDS = 1.5
"""Somebody waits with a finger on the key."""

OFFERED = 50
"""Jobs, the newest."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_HARMLESS = re.compile(r"\w[\w./-]{0,200}")


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of models, aliases too."""

    async def ask(service: Service) -> list[str]:
        return [model["id"] for model in await service.models()]

    return _offered(_ask(ctx, ask), incomplete)


def schedulers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Those of --model, or of the model that is meant without."""
    from app.cli.answers import schedulers_of

    async def ask(service: Service) -> list[str]:
        return schedulers_of(await service.models(), ctx.params.get("model"))

    return _offered(_ask(ctx, ask), incomplete)


def jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The caller's newest jobs, and pictures of the folder."""

    async def ask(service: Service) -> list[str]:
        return [job["id"] for job in (await service.jobs(limit=OFFERED))["data"]]

    return _jobs(lambda: _ask(ctx, ask), incomplete)


def dead_jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Anybody's jobs that used up their attempts, for operators, and pictures of the folder."""

    async def ask(service: Service) -> list[str]:
        return [job["id"] for job in (await service.ask("GET", "/v1/admin/dead", params={"limit": OFFERED}))["data"]]

    return _jobs(lambda: _ask(ctx, ask, key_of=_operators_key), incomplete)


def _jobs(ids_of: Callable[[], list[str]], incomplete: str) -> list[str]:
    ids = ids_of() if re.fullmatch(r"(j|jo|job|job_)?|job_\w+|[0-9a-f]+", incomplete) else []
    if incomplete and not incomplete.startswith("j"):
        ids = [job_id.removeprefix("job_") for job_id in ids]
    return _offered([*ids, *_pictures(incomplete)], incomplete)


def workers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of workers, for operators."""

    async def ask(service: Service) -> list[str]:
        return [worker["name"] for worker in (await service.ask("GET", "/v1/admin/workers"))["data"]]

    return _offered(_ask(ctx, ask, key_of=_operators_key), incomplete)


def _pictures(incomplete: str) -> list[str]:
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    except OSError:
        return []
    return [str(path) for path in found]


def _offered(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name)]


def _callers_key(given: dict[str, Any]) -> str | None:
    return given.get("api_key")


def _operators_key(given: dict[str, Any]) -> str | None:
    """As the commands of operators find it: a service without keys knows its operator by a token."""
    from app.cli.kept_secrets import operators_key

    folder = given.get("data")
    return operators_key(given.get("url") or DEFAULT_URL, given.get("api_key"), folder and Path(folder))


def _ask(
    ctx: typer.Context,
    ask: Callable[[Service], Awaitable[list[str]]],
    *,
    key_of: Callable[[dict[str, Any]], str | None] = _callers_key,
) -> list[str]:
    """What the service of this command line says; nothing if it says nothing in time."""
    try:
        logging.disable(logging.CRITICAL)
        return asyncio.run(_asked(ctx.params.get("url") or DEFAULT_URL, key_of(ctx.params), ask))
    except Exception:
        # Whatever it is: a line of it would stand in the middle of what is being typed.
        return []


async def _asked(url: str, key: str | None, ask: Callable[[Service], Awaitable[list[str]]]) -> list[str]:
    from app.cli.client import Service

    async with asyncio.timeout(WAIT_SECONDS), Service(url, key) as service:
        return await ask(service)
