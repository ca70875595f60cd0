"""Models as Redis knows them: what workers announced, which other names the operator gave, and who is about to come.

Knows the keys of models. Refuses to know jobs, beyond how many wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import redis.asyncio

from app.contract.messages.served import ServedModel, read_served
from app.contract.redis import keys
from app.contract.redis.clock import now_ms
from app.contract.redis.scripts import source

Forget = Literal["forgotten", "missing", "awake", "queued", "running"]
AliasOutcome = Literal["set", "removed", "missing", "is-model", "no-model", "is-alias", "is-target"]


@dataclass(frozen=True, slots=True)
class Aliasing:
    """What became of a name. `other` is the model it led to before, or with "is-alias" what the target leads to, or
    with "is-target" a name that leads to this one."""

    outcome: AliasOutcome
    other: str


class Models:
    """Methods raise redis.RedisError while Redis is away. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        self._scripts = {
            name: client.register_script(source(name)) for name in ("models", "forget_model", "model_alias")
        }

    async def all(self) -> dict[str, ServedModel]:
        """Models that workers have announced and nobody has forgotten, by name, in one round trip."""
        return read_served(await self._scripts["models"]())

    async def forget(self, name: str, *, line: str = "") -> tuple[Forget, int]:
        """Take a model without workers and jobs off every list; or why not, and how many of them there are. Names that
        lead to it stay: a worker may bring it back. `line` is the audit's."""
        was_known = await self._redis.hexists(keys.CARDS, name)
        outcome, count = await self._scripts["forget_model"](args=[name, line])
        # What is called again, because its answer was lost, finds nothing left to do.
        return "forgotten" if was_known and outcome == "missing" else outcome, count

    async def aliases(self) -> dict[str, str]:
        """Every other name and what it leads to, also where a model of that name goes before it."""
        return dict(sorted((await self._redis.hgetall(keys.MODEL_ALIASES)).items()))

    async def set_alias(self, alias: str, model: str, *, line: str = "") -> Aliasing:
        """Let a name lead to a model that is known. Anything else than "set" changes nothing. `line` is the audit's."""
        return Aliasing(*await self._scripts["model_alias"](args=[alias, model, line]))

    async def remove_alias(self, alias: str, *, line: Callable[[str], str] = lambda _: "") -> Aliasing:
        """Take the name back: "removed", or "missing" if there is none. `line` makes the audit's of what it led to."""
        was_known = await self._redis.hget(keys.MODEL_ALIASES, alias)
        removed = Aliasing(*await self._scripts["model_alias"](args=[alias, "", line(was_known or "")]))
        return Aliasing("removed", was_known) if was_known and removed.outcome == "missing" else removed

    async def starting(self) -> list[str]:
        """What workers are at that are not announced yet: one sentence each."""
        since = await now_ms(self._redis) - keys.ALIVE_MS
        said = [told.split(" ", 1) for told in (await self._redis.hgetall(keys.STARTING)).values()]
        return sorted(sentence for at, sentence in said if int(at) > since)
