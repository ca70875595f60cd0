"""What holds for every JSON body that comes in: null means "not given", and a whole number may be written as 20.0.

Form builders fill what a user left empty with null, and some languages have floats only. Knows no field by name.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

EXACT_FLOATS = 2**53
"""From here on a float is one of several whole numbers, and nobody knows which was meant."""

_ABOUT = ("title", "description", "default", "examples")
_NULL = {"type": "null"}


class RequestBody(BaseModel):
    """An object whose unknown fields are refused and whose types are strict, but for what this module's head says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            name: _whole(value) if type(value) is float else value for name, value in given.items() if value is not None
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        described = handler.resolve_ref_schema(schema)
        required = described.get("required", ())
        # What forms of other services have and this one does not is not given either, where it was left empty.
        described["additionalProperties"] = _NULL
        for name, about in described.get("properties", {}).items():
            if name not in required:
                described["properties"][name] = _or_null(about)
        return schema


def _whole(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < EXACT_FLOATS else value


def _or_null(about: JsonSchemaValue) -> JsonSchemaValue:
    if _NULL in about.get("anyOf", ()):
        return about
    kept = {name: value for name, value in about.items() if name in _ABOUT}
    return {"anyOf": [{name: value for name, value in about.items() if name not in _ABOUT}, _NULL], **kept}
