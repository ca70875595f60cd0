"""A snapshot as bytes and back: safetensors, with everything that is no tensor as JSON in its metadata.

Nothing in it is ever executed. What is read was written by whoever could write to the queue or the store, so each value
is measured again; what is damaged, of another version or too large is refused with the reason. Knows snapshots and
files; refuses to know where they are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from worker.engine.judging import Verdict
from worker.engine.snapshot import VERSION, KeptRecording, SampleSnapshot, Snapshot, Standing, Unfit

HEADER = "darkroom-snapshot"
"""The name of the JSON in the metadata."""

TENSOR, ARRAY, TUPLE = "tensor", "array", "tuple"
"""The only key of an object that stands for such a value. No field and no attribute is called so: see `_apart`."""


def written(snapshot: Snapshot, drawn_with: Mapping[str, Any]) -> bytes:
    """`drawn_with` is what the one who goes on has to have as well, as JSON has it. Raises TypeError for a value that
    no file can have."""
    tensors: dict[str, torch.Tensor] = {}
    said = {"version": snapshot.version, "drawn_with": dict(drawn_with), "job": _apart(snapshot, "job", tensors)}
    data: bytes = save(tensors, metadata={HEADER: json.dumps(said)})
    return data


def read(data: bytes, drawn_with: Mapping[str, Any]) -> Snapshot:
    """Raises Unfit for what is no snapshot of this version, or was not drawn with the same."""
    try:
        said = json.loads(_metadata(data)[HEADER])
        if said["version"] != VERSION:
            raise Unfit(f"it is of version {said['version']}, and not {VERSION}")
        if other := [name for name, value in drawn_with.items() if said["drawn_with"].get(name) != value]:
            raise Unfit(f"it was drawn with another {', another '.join(other)}")
        return _snapshot(_together(said["job"], load(data)))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unfit(f"it cannot be read: {type(error).__name__}") from error


def _metadata(data: bytes) -> dict[str, Any]:
    """https://huggingface.co/docs/safetensors: eight bytes with the length of a JSON header, and the header."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, Any] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


def _apart(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The value as JSON has it; tensors go to `tensors`, by where they were found."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor | np.ndarray):
        if isinstance(value, np.ndarray):
            tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
            return {ARRAY: name}
        tensors[name] = value.contiguous()
        return {TENSOR: name}
    if isinstance(value, list | tuple):
        parts = [_apart(each, f"{name}.{place}", tensors) for place, each in enumerate(value)]
        return parts if isinstance(value, list) else {TUPLE: parts}
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping) and not value.keys() & {TENSOR, ARRAY, TUPLE}:
        return {str(key): _apart(each, f"{name}.{key}", tensors) for key, each in value.items()}
    raise TypeError(f"a {type(value).__name__} at {name} cannot be written")


def _together(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_together(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TENSOR}:
        return tensors[value[TENSOR]]
    if value.keys() == {ARRAY}:
        return tensors[value[ARRAY]].numpy()
    if value.keys() == {TUPLE}:
        return tuple(_together(each, tensors) for each in value[TUPLE])
    return {key: _together(each, tensors) for key, each in value.items()}


def _snapshot(said: dict[str, Any]) -> Snapshot:
    return Snapshot(**said | {"samples": [_sample(each) for each in said["samples"]]})


def _sample(said: dict[str, Any]) -> SampleSnapshot:
    kinds = {"standing": Standing, "estimated": Verdict, "verdict": Verdict}
    own = {name: None if said[name] is None else kind(**said[name]) for name, kind in kinds.items()}
    kept = said["recordings"]
    own["recordings"] = kept and {name: KeptRecording(**each) for name, each in kept.items()}
    return SampleSnapshot(**said | own)
