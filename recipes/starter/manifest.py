"""The list of files on which a model's pictures depend, with their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

MANIFEST = "sha256sums.txt"

UNLISTED = (MANIFEST, "README.md", "NOTICE", "contact-sheet.png", "evaluation.json")
"""What no picture depends on."""


def write_manifest(folder: Path) -> None:
    """`sha256  path` of every file that a picture depends on, as sha256sum writes it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in UNLISTED)
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}" for file in files
    ]
    (folder / MANIFEST).write_text("\n".join(lines) + "\n")
