"""`darkroom models alias`: further names of models, given and taken back while the service runs, in its own Redis."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import redis.asyncio

from app.cli.exits import OK, REFUSED
from app.cli.keys import with_redis
from app.cli.tables import print_table
from app.cli.words import hint
from app.contract.messages.audit import Operator
from app.contract.redis.models import Models
from app.jobs.aliases import Aliases, AliasRefused


def show_aliases(*, data: Path, as_json: bool) -> int:
    """Print every name that was given, what it means, and whether it works. Returns the exit code."""

    async def work(client: redis.asyncio.Redis) -> int:
        found = await Aliases(Models(client)).all()
        if as_json:
            listed = [{"id": each.name, "alias_of": each.model, "state": each.state} for each in found]
            print(json.dumps({"object": "list", "data": listed}))
        else:
            print_table(("name", "model", "state"), [(each.name, each.model, each.state) for each in found])
        return OK

    return with_redis("models", data, work)


def change_alias(alias: str, model: str | None, *, data: Path) -> int:
    """Let the name mean a model, or with None nothing any more. Returns the exit code."""

    async def work(client: redis.asyncio.Redis) -> int:
        models = Models(client)
        aliases = Aliases(models)
        try:
            if model is None:
                print(f"{alias} means nothing any more; it meant {await aliases.take_back(alias, Operator())}")
                return OK
            before = await aliases.give(alias, model, Operator())
        except AliasRefused as refused:
            wrong = model or "" if refused.about == "model" else alias
            known = [*await models.all()] if refused.about == "model" else [*await models.aliases()]
            near = hint(wrong, known) if refused.code in ("model_unknown", "alias_unknown") else ""
            print(f"darkroom models: {wrong!r} {refused}{near}", file=sys.stderr)
            return REFUSED
        print(f"{alias} means {model}{f' and no more {before}' if before not in ('', model) else ''}")
        return OK

    return with_redis("models", data, work)
