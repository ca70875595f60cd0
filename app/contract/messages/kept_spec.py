"""A job's parameters as they are kept: in its record, inside its pictures, and asked for again from there.

Knows the forms of earlier versions. Declares no parameter: those are `spec`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from app.contract.messages.inputs import OTHER_WAYS
from app.contract.messages.spec import JobSpec, RecordedSpec, place_of

NEGATIVE_GIVEN: Final = "negative_prompt_given"
"""Beside an empty negative prompt that somebody asked for, wherever a spec is stored. Versions up to 4 knew no missing
one and stored "", and their gateways still read what is stored now."""


def stored(spec: JobSpec) -> str:
    """As JSON, for the job's record."""
    return json.dumps(_stored_values(spec, set(JobSpec.model_fields)), ensure_ascii=False, separators=(",", ":"))


def read_stored(text: str) -> JobSpec:
    """What `stored` made, in this version or an earlier one."""
    return JobSpec.model_validate(_as_meant(json.loads(text)))


def _as_meant(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the empty negative prompt that nobody asked for."""
    is_missing = values.get("negative_prompt") == "" and not values.get(NEGATIVE_GIVEN)
    return dict(values) | ({"negative_prompt": None} if is_missing else {})


def _stored_values(spec: JobSpec, fields: set[str]) -> dict[str, Any]:
    values = spec.model_dump(mode="json", include=fields)
    if spec.negative_prompt == "":
        values[NEGATIVE_GIVEN] = True
    return values | {"negative_prompt": spec.negative_prompt or ""}


def recorded(spec: JobSpec, *, seed: int, index: int = 0) -> dict[str, Any]:
    """What the record inside a picture says of how it was asked for, as JSON has it. `seed` is the picture's own, and
    so is its place on a way."""
    values = _stored_values(spec, set(RecordedSpec.model_fields)) | {"seed": seed}
    if (place := place_of(spec, index)) is not None:
        values["image_embedding"] |= {"at": [place]}
    return {name: value for name, value in values.items() if value not in (None, [])}


def asked_again(record: Mapping[str, Any]) -> dict[str, Any]:
    """The request that a picture's record makes. Everything else in a stranger's file stays there, and what the record
    lacks is left out: the picture was drawn before there was such a parameter. A record names pictures by hash: a link
    in the place of one is not passed on."""
    meant = _as_meant(record)
    return {name: _by_hash(meant[name]) for name in RecordedSpec.model_fields if meant.get(name) is not None}


def _by_hash(value: Any) -> Any:
    """A recorded value without other ways to name a picture."""
    if isinstance(value, list):
        return [_by_hash(each) for each in value]
    if isinstance(value, dict):
        return {name: _by_hash(each) for name, each in value.items() if name not in OTHER_WAYS}
    return value
