"""The fields of a form as the JSON body that they stand for: of which type each is, its parameter's declaration says.

Knows texts and types. Refuses to know files, and what a parameter means.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from app.contract.messages.params import ParamError, ParamsRejected
from app.edge.errors import MalformedJson
from app.edge.strict_json import parse_json

_NAME: Final = re.compile(r"([A-Za-z_]\w{0,63})((?:\[[A-Za-z0-9_.-]{0,64}\]){1,6})", re.ASCII)
"""`name[]`, an element of a list, `name[key]`, a member of an object, and any of them in another: as OpenAI's clients
write what is nested."""

_STEP: Final = re.compile(r"\[(.*?)\]")

TWICE: Final = ("said_twice", "is in the form more than once")
UNCLEAR: Final = ("not_clear", "is a list whose objects have unlike members: send it as JSON, a text from [ to ]")
"""What can be wrong with a field, as code and detail."""


def as_json(fields: Iterable[tuple[str, str]], model: type[BaseModel]) -> dict[str, Any]:
    """The values of the fields, of the types that `model` declares where a text can be read so; the model judges them.

    What is nested is JSON, or in brackets. Raises ParamsRejected for a field that is there twice, and for a list of
    objects of which nobody can tell where one ends.
    """
    form = _Form()
    for name, text in fields:
        nested = _NAME.fullmatch(name)
        way = (nested[1], *_STEP.findall(nested[2])) if nested else (name,)
        form.add(form.values, way, text, _declared(model, way[0]))
    form.check()
    return form.values


class _Form:
    """What has been read of a form so far."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._counts: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}
        """How often each member of the objects in a list came, by the names that lead to the list."""

    def add(self, into: dict[str, Any], way: tuple[str, ...], text: str, declared: Any, *, begun: int = 0) -> None:
        """Puts the text where `way` leads, whose names up to `begun` have led to `into`; `declared` is the type of what
        is there."""
        name, steps = way[begun], way[begun + 1 :]
        if not steps:
            if name in into:
                raise _wrong(way[0], *TWICE)
            into[name] = _value(text, declared)
            return
        inside = _inside(declared, steps[0])
        if steps[0]:
            self.add(_of_kind(into, name, dict, way[0]), way, text, inside, begun=begun + 1)
        elif len(steps) == 1:
            _of_kind(into, name, list, way[0]).append(_value(text, inside))
        else:
            found = self._object(_of_kind(into, name, list, way[0]), way[: begun + 1], steps[1:])
            self.add(found, way, text, _inside(inside, steps[1]), begun=begun + 2)

    def check(self) -> None:
        """Raises ParamsRejected where nobody can tell which object a member belongs to: some have it, and some not."""
        for way, counts in self._counts.items():
            if len(set(counts.values())) > 1:
                raise _wrong(way[0], *UNCLEAR)

    def _object(self, found: list[Any], way: tuple[str, ...], member: tuple[str, ...]) -> dict[str, Any]:
        """The one in the list that a member belongs to: the k-th, if it is there for the k-th time. One client sends
        the objects one by one, another member by member."""
        if "" in member:
            raise _wrong(way[0], *UNCLEAR)
        counts = self._counts.setdefault(way, Counter())
        place = counts[member]
        counts[member] += 1
        if place == len(found):
            found.append({})
        own = found[place]
        if not isinstance(own, dict):
            raise _wrong(way[0], *TWICE)
        return own


def _of_kind(values: dict[str, Any], name: str, kind: type, field: str) -> Any:
    found = values.setdefault(name, kind())
    if not isinstance(found, kind):
        raise _wrong(field, *TWICE)
    return found


def _wrong(field: str, code: str, detail: str) -> ParamsRejected:
    return ParamsRejected([ParamError(f"/{field}" if field.isidentifier() else "", code, detail)])


def _declared(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields.get(name)
    return field.annotation if field else str


def _inside(declared: Any, step: str) -> Any:
    """The type of what is nested in a value of this type: of a member, or of an element where the step is empty."""
    for member in _members(declared):
        if isinstance(member, type) and issubclass(member, BaseModel) and step:
            return _declared(member, step)
        if get_origin(member) is (dict if step else list):
            return get_args(member)[-1]
    return str


def _members(declared: Any) -> list[Any]:
    """The types of a union, without None and without what is said beside a type."""
    if get_origin(declared) is Annotated:
        return _members(get_args(declared)[0])
    if get_origin(declared) in (Union, UnionType):
        return [member for each in get_args(declared) for member in _members(each)]
    return [] if declared is NoneType else [declared]


def _value(text: str, declared: Any) -> Any:
    members = _members(declared)
    if all(member is str or get_origin(member) is Literal for member in members):
        return text
    if not text:
        # An empty field of a form is one that nobody filled.
        return None
    if bool in members:
        return {"true": True, "false": False, "1": True, "0": False}.get(text.casefold(), text)
    try:
        return parse_json(text.encode())
    except MalformedJson:
        return text
