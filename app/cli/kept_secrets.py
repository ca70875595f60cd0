"""Secrets that `darkroom up` makes once per data folder, each in a file: what signs picture links, which outlive a
restart, and what the operator of a service without keys is known by.

Knows the files. Refuses to know what is signed, and who may do what.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

from app.cli.private import write_whole
from app.pictures.links import SHORTEST_KEY

SIGNING_KEY = "signing.key"
OPERATOR_TOKEN = "operator.token"

LOST = {
    SIGNING_KEY: "older picture links end",
    OPERATOR_TOKEN: "the former one opens the operator's page no more",
}
"""What it means that a file has to be made anew."""


def kept_secret(data: Path, name: str) -> str:
    """The folder's, made where there is none. One that was cut short, or is no text, is replaced, with a word. Raises
    OSError."""
    path = data / name
    if path.exists():
        secret = path.read_text("ascii", errors="replace").strip()
        if len(secret) >= SHORTEST_KEY and secret.isascii() and secret.isprintable():
            return secret
        print(f"darkroom: {path} was cut short: a new one is made, and {LOST[name]}", file=sys.stderr)
    secret = secrets.token_hex(SHORTEST_KEY)
    write_whole(path, secret)
    return secret


def operator_token(url: str, data: Path = Path("data")) -> str | None:
    """What makes a command the operator's on a service of this machine that was started over this folder and has no
    keys. None for a service elsewhere, and where no file can be read: then a key is needed."""
    try:
        if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
            return (data / OPERATOR_TOKEN).read_text("ascii").strip() or None
    except (OSError, ValueError):
        pass
    return None
