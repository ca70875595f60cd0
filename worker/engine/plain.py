"""Values made of numbers, texts and tensors: looked through, and brought to the host.

Knows lists, mappings, dataclasses and tensors. Refuses to know what they mean, and files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from worker.engine.transfer import to_host

T = TypeVar("T")


class NotPlain(Exception):
    """A value that only its own process can have."""


def changed(value: T, tensor: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """The same value with another tensor in the place of each. Raises NotPlain for what is not plain."""
    return _changed(value, tensor)


def _changed(value: Any, tensor: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return tensor(value)
    if value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_changed(each, tensor) for each in value)
    if isinstance(value, dict):
        return {key: _changed(each, tensor) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _changed(getattr(value, each.name), tensor) for each in fields(value)})
    raise NotPlain(f"a {type(value).__name__} cannot be kept")


def on_host(value: T) -> tuple[T, torch.cuda.Event | None]:
    """A copy whose tensors are on the host and nobody else's, and the event after which they have arrived; None if they
    have. Does not wait for the device. Raises NotPlain."""
    events: list[torch.cuda.Event | None] = [None]

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_cuda:
            return tensor.cpu().clone()
        host, arrived = to_host(tensor)
        events.append(arrived)
        return host

    copy = changed(value, copied)
    # All of one stream: with the last of them all have come.
    return copy, events[-1]
