"""Hashes of a model's files: what names its weights, and what a folder's sha256sums.txt says that they should be.

Knows bytes and names. Refuses to know which files a model has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from worker.models.errors import ModelError

MANIFEST = "sha256sums.txt"
CHUNK = 1 << 22


def read_manifest(path: Path) -> dict[str, str]:
    """`hash  path` lines, as sha256sum writes and checks them. Raises ModelError."""
    entries = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch the model again.") from error
    for line in lines:
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name:
            raise ModelError(f"{path} has a line that sha256sum would not write; fetch the model again.")
        entries[name[1:].removeprefix("./")] = digest.lower()
    return entries


def hash_of(hashes: Mapping[str, str]) -> str:
    """Of a whole model: over the sorted `hash  name` lines of its files."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def hold_against_manifest(folder: Path, hashes: Mapping[str, str]) -> None:
    """Compare hashes of files, by their names, with those in the folder's sha256sums.txt. Raises ModelError with all
    that differ."""
    expected = read_manifest(folder / MANIFEST)
    wrong = [folder / name for name, digest in hashes.items() if expected.get(name) != digest]
    if wrong:
        raise ModelError(*(f"{file} differs from {MANIFEST}; fetch the model again." for file in wrong))


def sha256_of(path: Path) -> str:
    """Of a whole file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
