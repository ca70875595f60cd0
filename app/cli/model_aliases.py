"""`darkroom models alias`: further names of models, given and taken back while the service runs, in its own Redis."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path

import redis.asyncio

from app.cli.exits import OK, REFUSED
from app.cli.keys import noted, with_redis
from app.cli.tables import print_table
from app.cli.words import hint
from app.contract.messages.model_name import LEGAL_ALIAS, is_legal_alias
from app.contract.redis.models import Aliasing, Models


def show_aliases(*, data: Path, as_json: bool) -> int:
    """Print every name that was given, what it means, and whether it works. Returns the exit code."""

    async def work(client: redis.asyncio.Redis) -> int:
        models = Models(client)
        known, aliases = await models.all(), await models.aliases()
        rows = [(alias, model, _state(alias, model, known)) for alias, model in aliases.items()]
        if as_json:
            listed = [{"id": alias, "alias_of": model, "state": state} for alias, model, state in rows]
            print(json.dumps({"object": "list", "data": listed}))
        else:
            print_table(("name", "model", "state"), rows)
        return OK

    return with_redis("models", data, work)


def _state(alias: str, model: str, known: Collection[str]) -> str:
    if alias in known:
        return "hidden"
    return "works" if model in known else "leads nowhere"


def change_alias(alias: str, model: str | None, *, data: Path) -> int:
    """Let the name mean a model, or with None nothing any more. Returns the exit code."""
    if not is_legal_alias(alias):
        print(f"darkroom models: {alias!r} is no name that requests could use: that is {LEGAL_ALIAS}", file=sys.stderr)
        return REFUSED

    async def work(client: redis.asyncio.Redis) -> int:
        models = Models(client)
        done = await (models.set_alias(alias, model) if model is not None else models.remove_alias(alias))
        if done.outcome == "set":
            instead = f" and no more {done.other}" if done.other not in ("", model) else ""
            print(f"{alias} means {model}{instead}")
            await noted(client, "models alias", alias, f"means {model}")
            return OK
        if done.outcome == "removed":
            print(f"{alias} means nothing any more; it meant {done.other}")
            await noted(client, "models alias", alias, "removed")
            return OK
        known = [*await models.all(), *await models.aliases()]
        print(f"darkroom models: {_refused(alias, model or '', done, known)}", file=sys.stderr)
        return REFUSED

    return with_redis("models", data, work)


def _refused(alias: str, model: str, done: Aliasing, known: list[str]) -> str:
    """Why nothing was changed, with the remedy."""
    return {
        "missing": f"there is no such name{hint(alias, known) or '; `darkroom models alias` shows them'}",
        "is-model": f"a model is called {alias}: a further name may not hide it; `darkroom models forget {alias}` "
        "takes off one that nobody serves",
        "no-model": f"there is no model {model}{hint(model, known) or '; `darkroom models list` shows them'}",
        "is-alias": f"{model} is such a name itself: name the model that it means, {done.other}",
        "is-target": f"{done.other} leads to {alias}, and a name leads to a model: "
        f"`darkroom models alias {done.other} --remove` first",
    }[done.outcome]
