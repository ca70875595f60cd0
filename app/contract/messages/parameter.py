"""How one parameter is declared: what a request may say of it, beside the name, type and default that are stored.

Everything that takes, shows or checks parameters reads these declarations (`parameters_of`). Knows no parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Fault = tuple[str, str, str]
"""What is wrong with a parameter of a request: JSON pointer, rule and sentence, as ParamError has them."""


class Undeclared(TypeError):
    """A stored field without a `Parameter`: nothing would ask for it, check it or show it. Raised on import."""


class Spec(BaseModel):
    """Parameters with nothing left open. Fields of a later version are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Stands in the annotation of a stored field: `steps: Annotated[int, Parameter(least=1)]`.

    `about` is its description in the API. `default` is that of a request: `...` where it must be said, None where the
    model's card or the service fills it in. `least` and `most` bound a number; a request with another value is refused.
    `asked` is the whole type in a request, where that takes more than is stored: other spellings, texts that are looked
    at. `announced`: only models whose card names it in `takes` take another value than the default. Stored values are
    not measured again: a record outlives the limits that it was let in by.
    """

    about: str | None = None
    default: Any = None
    least: float | None = None
    most: float | None = None
    asked: Any = None
    announced: bool = False

    def field(self, stored: Any) -> tuple[Any, FieldInfo]:
        """Type and field of a request's model, for pydantic.create_model. `stored` is the type in the record."""
        limits = {"ge": self.least, "le": self.most}
        if self.asked is not None:
            return self.asked, self._described({})
        if stored is float:
            limits["allow_inf_nan"] = False
        kind = stored | None if self.default is None else stored
        return kind, self._described({name: limit for name, limit in limits.items() if limit is not None})

    def _described(self, limits: Mapping[str, Any]) -> FieldInfo:
        field: FieldInfo = Field(default=self.default, description=self.about, **limits)
        return field

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError, a sentence, for a number out of bounds or none at all."""
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value}")
        if self.least is not None and value is not None and value < self.least:
            raise ValueError(f"{name} must be at least {self.least}, not {value}")
        if self.most is not None and value is not None and value > self.most:
            raise ValueError(f"{name} must be at most {self.most}, not {value}")


def parameters_of(spec: type[BaseModel]) -> dict[str, Parameter]:
    """The declarations of all fields, in their order. Raises Undeclared."""
    return {name: _declared(spec, name, field) for name, field in spec.model_fields.items()}


def is_plain(stored: Any) -> bool:
    """Whether values of this type are one number, one text, one choice or yes and no: what fits into one control of a
    form and one option of a command."""
    if get_origin(stored) in (Union, UnionType):
        return all(is_plain(kind) for kind in get_args(stored) if kind is not NoneType)
    return get_origin(stored) is Literal or stored in (bool, int, float, str)


def request_fields(spec: type[BaseModel]) -> dict[str, Any]:
    """Fields of a request for everything that `spec` stores, as pydantic.create_model takes them. Raises Undeclared."""
    fields = spec.model_fields
    return {name: each.field(fields[name].annotation) for name, each in parameters_of(spec).items()}


def _declared(spec: type[BaseModel], name: str, field: FieldInfo) -> Parameter:
    found = next((each for each in field.metadata if isinstance(each, Parameter)), None)
    if found is None:
        raise Undeclared(f"{spec.__name__}.{name} needs a Parameter in its annotation: Annotated[..., Parameter(...)]")
    return found
