"""Commands and options as help shows them and as a typing error meets them. Every `Typer` of ours is a `Words`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

E = TypeVar("E", bound=StrEnum)


def _without_types_of_flags(params: Sequence[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return list(params)


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))


class Words(typer.Typer):
    """A Typer in whose help a flag has no type: `--json`, and not `--json <bool>`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, **options)

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = _Command, **options: Any
    ) -> Callable[[Any], Any]:
        return super().command(name, cls=cls, **options)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that was probably meant: case, spaces, hyphens and the like do not count."""
    by_letters = {_letters(name): name for name in known}
    close = difflib.get_close_matches(_letters(word), by_letters, n=1)
    return by_letters[close[0]] if close else None


def hint(word: str, known: Iterable[str]) -> str:
    """How a sentence about an unknown word ends: with the nearest known one, or with nothing."""
    close = nearest(word, known)
    return f"; did you mean {close}?" if close else ""


def one_of(names: type[E]) -> dict[str, Any]:
    """Options of a `typer.Option` that takes a name of an enumeration: checked, completed, and with the nearest one."""

    def read(given: str) -> E:
        try:
            return names(given)
        except ValueError:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(names)}{hint(given, names)}") from None

    def complete(incomplete: str) -> list[str]:
        return [str(name) for name in names if name.startswith(incomplete)]

    return {"parser": read, "metavar": "|".join(names), "autocompletion": complete}


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()
