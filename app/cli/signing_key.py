"""The key that signs picture links, made once per data folder: links outlive a restart.

Knows one file. Refuses to know what is signed.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from app.cli.private import write_whole
from app.pictures.links import SHORTEST_KEY

NAME = "signing.key"


def signing_key(data: Path) -> str:
    """The folder's key. One that was cut short, or is no text, is replaced, with a word. Raises OSError."""
    path = data / NAME
    if path.exists():
        key = path.read_text("ascii", errors="replace").strip()
        if len(key) >= SHORTEST_KEY and key.isascii() and key.isprintable():
            return key
        print(f"darkroom: {path} was cut short: a new one is made, and older picture links end", file=sys.stderr)
    key = secrets.token_hex(SHORTEST_KEY)
    write_whole(path, key)
    return key
