"""What a safetensors file says about its tensors, without reading one of them.

Knows the format's header and what safetensors refuses when it opens a file. Refuses to know what the tensors are for;
imports no torch, reads at most the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself takes no longer one. That of Stable Diffusion XL's UNet is 200 kB."""

BITS: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}

POINTER = b"version https://git-lfs"


class HeaderError(Exception):
    """A file that is no whole safetensors file: what it is, and what to do, without its name and a full stop."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`dtype` in safetensors' words, F16 for one."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises HeaderError for all that safetensors would refuse to open, and OSError."""
    return read_whole_header(path)[0]


def read_whole_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The same, and what whoever wrote the file says of it."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        size = path.stat().st_size
        _check_start(start, file.read(len(POINTER)), length, size)
        file.seek(8)
        entries = _entries(file.read(length))
    said = entries.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in entries.items():
        tensors[name], span = _tensor(name, entry)
        spans.append(span)
    _check_spans(sorted(spans), size - 8 - length)
    said = said if isinstance(said, dict) else {}
    return tensors, {str(name): value for name, value in said.items() if isinstance(value, str)}


def _check_start(start: bytes, after: bytes, length: int, size: int) -> None:
    """Eight bytes of the header's length, then the header, an object: everything else is something else."""
    if size and after[:1] == b"{" and length <= LONGEST_HEADER:
        if 8 + length > size:
            raise HeaderError(
                f"is cut short (its header alone has {length:,} bytes, the file {size:,}); fetch it again"
            )
        return
    raise HeaderError(_something_else(start + after))


def _something_else(start: bytes) -> str:
    """What a file is that begins like this."""
    if not start:
        return "is empty; fetch the file again"
    if start.startswith(POINTER):
        return "is a Git LFS pointer in the place of the weights; run `git lfs install && git lfs pull` in the clone"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "holds pickled weights, whatever its name says; convert them to safetensors"
    if start.lstrip().startswith(b"<"):
        return "is a web page, not weights; fetch the file again, logged in if the model asks for that"
    return "is no safetensors file; fetch the file again"


def _entries(header: bytes) -> dict[str, Any]:
    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name twice")
        return found

    try:
        entries = json.loads(header.decode(), object_pairs_hook=without_doubles)
        if not isinstance(entries, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"has a damaged header ({str(error)[:100]}); fetch the file again") from error
    return entries


def _tensor(name: str, entry: Any) -> tuple[Tensor, tuple[int, int]]:
    """The tensor, and the bytes of the data that are its own."""
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers_are_natural = all(type(number) is int and number >= 0 for number in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderError(f"has a damaged entry for {name[:100]}; fetch the file again") from error
    if not isinstance(dtype, str) or dtype not in BITS:
        raise HeaderError(f"has a tensor of an unknown type, {name[:100]}; take the model's float16 weights")
    if not numbers_are_natural or math.prod(shape) * BITS[dtype] != 8 * (end - start):
        raise HeaderError(f"gives {name[:100]} another size than its shape has; fetch the file again")
    return Tensor(dtype, tuple(shape)), (start, end)


def _check_spans(spans: list[tuple[int, int]], data: int) -> None:
    """Side by side from the first byte to the last, without a gap or an overlap."""
    at = 0
    for start, end in spans:
        if start != at:
            raise HeaderError("has tensors that overlap or leave gaps; fetch the file again")
        at = end
    if at > data:
        raise HeaderError(f"is cut short ({data:,} of {at:,} bytes of weights are there); fetch the file again")
    if at < data:
        raise HeaderError(f"has {data - at:,} bytes after its last tensor; fetch the file again")
