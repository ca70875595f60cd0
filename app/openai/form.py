"""The fields of a form as the JSON body that they stand for: of which type each is, its parameter's declaration says.

Knows texts and types. Refuses to know files, and what a parameter means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from app.contract.messages.params import ParamError, ParamsRejected
from app.edge.errors import MalformedJson
from app.edge.strict_json import parse_json

_NAME: Final = re.compile(r"([A-Za-z_]\w{0,63})\[([A-Za-z0-9_.-]{0,64})\]", re.ASCII)
"""`name[]`, an element of a list, and `name[key]`, a member of an object: as OpenAI's clients write what is nested."""


def as_json(fields: Iterable[tuple[str, str]], model: type[BaseModel]) -> dict[str, Any]:
    """The values of the fields, of the types that `model` declares where a text can be read so; the model judges them.

    What is nested is JSON, or in brackets. Raises ParamsRejected for a field that is there twice.
    """
    values: dict[str, Any] = {}
    for name, text in fields:
        nested = _NAME.fullmatch(name)
        if nested is None:
            _put(values, name, _value(text, _declared(model, name)), name)
        elif not nested[2]:
            inside = _inside(_declared(model, nested[1]), list)
            _of_kind(values, nested[1], list).append(_value(text, inside))
        else:
            inside = _inside(_declared(model, nested[1]), dict, key=nested[2])
            _put(_of_kind(values, nested[1], dict), nested[2], _value(text, inside), nested[1])
    return values


def _put(values: dict[str, Any], name: str, value: Any, field: str) -> None:
    if name in values:
        raise _twice(field)
    values[name] = value


def _of_kind(values: dict[str, Any], name: str, kind: type) -> Any:
    found = values.setdefault(name, kind())
    if not isinstance(found, kind):
        raise _twice(name)
    return found


def _twice(name: str) -> ParamsRejected:
    pointer = f"/{name}" if name.isidentifier() else ""
    return ParamsRejected([ParamError(pointer, "said_twice", "is in the form more than once")])


def _declared(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields.get(name)
    return field.annotation if field else str


def _inside(declared: Any, kind: type, *, key: str = "") -> Any:
    """The type of what is nested in a value of this type."""
    for member in _members(declared):
        if isinstance(member, type) and issubclass(member, BaseModel) and kind is dict:
            return _declared(member, key)
        if get_origin(member) is kind:
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
