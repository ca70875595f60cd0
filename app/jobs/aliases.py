"""Further names of models as an operator gives them and takes them back, by the API or on the service's machine.

Knows what may be a name, what each refusal means, and the audit. Refuses to know who may: that was decided before.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from app.contract.messages.audit import Change, Operator
from app.contract.messages.model_name import LEGAL_ALIAS, is_legal_alias
from app.contract.redis.models import Aliasing, Models

AliasState = Literal["works", "leads-nowhere", "hidden"]


class AliasRefused(Exception):
    """Nothing was changed. `about` is what is wrong, the alias or the model; `str()` begins with a verb of it."""

    def __init__(self, about: Literal["alias", "model"], code: str, detail: str) -> None:
        super().__init__(detail)
        self.about, self.code = about, code


@dataclass(frozen=True, slots=True)
class Alias:
    """A further name, the model that it means, and whether requests can use it: not where that model was forgotten, nor
    where a model of the alias's own name came later."""

    name: str
    model: str
    state: AliasState


class Aliases:
    """Methods raise redis.RedisError while Redis is away, and may be called again."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def all(self) -> list[Alias]:
        """Those that were given while the service ran, by name. Those of the settings are not among them."""
        known, aliases = await self._models.all(), await self._models.aliases()
        return [Alias(name, model, _state(name, model, known.keys())) for name, model in aliases.items()]

    async def give(self, alias: str, model: str, by: Operator) -> str:
        """Let requests name the model so. The model that the name meant before, or "". Raises AliasRefused."""
        if not is_legal_alias(alias):
            raise AliasRefused("alias", "alias_illegal", f"is no name that requests could use: that is {LEGAL_ALIAS}")
        done = await self._models.set_alias(alias, model, line=_line(by, alias, f"means {model}"))
        if done.outcome != "set":
            raise _refusal(done)
        return done.other

    async def take_back(self, alias: str, by: Operator) -> str:
        """Let the name mean nothing. The model that it meant. Raises AliasRefused."""
        done = await self._models.remove_alias(alias, line=lambda model: _line(by, alias, f"means {model} no more"))
        if done.outcome != "removed":
            raise AliasRefused("alias", "alias_unknown", "is no name that was given while the service ran")
        return done.other


def _line(by: Operator, alias: str, outcome: str) -> str:
    return Change.by(by, "alias", alias, outcome).line()


def _state(name: str, model: str, known: Collection[str]) -> AliasState:
    if name in known:
        return "hidden"
    return "works" if model in known else "leads-nowhere"


def _refusal(done: Aliasing) -> AliasRefused:
    if done.outcome == "is-model":
        return AliasRefused("alias", "is_model", "is what a model is called, and may not hide it")
    if done.outcome == "is-target":
        return AliasRefused("alias", "is_target", f"is what {done.other} leads to, and that would lead on from here")
    if done.outcome == "is-alias":
        return AliasRefused("model", "is_alias", f"is an alias itself: name the model that it means, {done.other}")
    return AliasRefused("model", "model_unknown", "is not served here")
