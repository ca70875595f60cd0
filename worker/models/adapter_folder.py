"""A folder of adapter files: which of them can be served, under which names, and why the others cannot.

An adapter is a safetensors file by itself, and its name is the file's. Knows files and names. Knows no tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from worker.models.errors import ModelError
from worker.models.headers import HeaderError
from worker.models.single_file import PICKLED

SUFFIX = ".safetensors"

PREVIEWS = (".png", ".jpg", ".jpeg", ".webp")
PREVIEW = ".preview"
"""What other programs keep beside an adapter to show what it does: `ink.preview.png` or `ink.png`."""

LEGAL_NAME = re.compile(r"[\w][\w .()+-]{0,63}", re.ASCII)
"""Of a request, a prompt or another program's `<lora:name:1>`: no colon, no bracket, no separator of a path."""

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Shelf(Generic[Read]):
    """What a folder has: `served` by name, and `faults`, one sentence for each thing in it that is left out."""

    served: Mapping[str, Read] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def look_into(folder: Path | None, read: Callable[[str, Path], Read], *, setting: str) -> Shelf[Read]:
    """All files that `read(name, path)` takes; what it refuses with ModelError is left out. Without a folder, nothing.

    Raises ModelError where the folder that the setting names is none.
    """
    if folder is None:
        return Shelf()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ModelError(f"{setting} names {folder}, which is no folder that can be read ({error.strerror}).") from None
    served: dict[str, Read] = {}
    faults: list[str] = []
    for entry in entries:
        if entry.name.startswith(".") or is_preview(entry):
            continue  # What file managers and version control leave behind, and pictures of adapters.
        try:
            _check_entry(entry, served)
            served[entry.stem] = read(entry.stem, entry)
        except HeaderError as error:
            faults.append(f"{entry} {error}.")
        except OSError as error:
            faults.append(f"{entry} cannot be read ({error.strerror}); give this user the right to.")
        except ModelError as error:
            faults += error.faults
    return Shelf(served, tuple(faults))


def is_preview(file: Path) -> bool:
    """Whether this is the preview of an adapter in the same folder."""
    name = file.name.removesuffix(file.suffix).removesuffix(PREVIEW)
    return file.suffix.lower() in PREVIEWS and file.with_name(name + SUFFIX).is_file()


def preview_beside(file: Path) -> Path | None:
    """The preview of this adapter's file, whatever is in it."""
    names = [f"{file.stem}{mark}{suffix}" for mark in (PREVIEW, "") for suffix in PREVIEWS]
    return next((file.with_name(name) for name in names if os.path.lexists(file.with_name(name))), None)


def _check_entry(entry: Path, served: Mapping[str, object]) -> None:
    """Could it be an adapter, by its name and its kind? Raises ModelError."""
    if entry.suffix.lower() in PICKLED:
        raise ModelError(f"{entry} is a pickle, which can run anything when opened; convert it to safetensors.")
    if entry.suffix != SUFFIX or not entry.is_file():
        raise ModelError(f"{entry} is no safetensors file; take it out of the folder.")
    if not LEGAL_NAME.fullmatch(entry.stem):
        raise ModelError(
            f"{entry} has a name that requests cannot say; rename it with letters, digits, spaces and _ . ( ) + -"
        )
    if entry.stem.lower() in {name.lower() for name in served}:
        raise ModelError(f"{entry} differs from another file's name by capitals alone; rename one.")
