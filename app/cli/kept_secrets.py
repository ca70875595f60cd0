"""Secrets that `darkroom up` makes once per data folder, each in a file: what signs picture links, which outlive a
restart, and what the operator of a service without keys is known by.

Knows the files. Refuses to know what is signed, and who may do what.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

from app.cli.private import write_whole
from app.edge.auth import is_operator_token
from app.pictures.links import SHORTEST_KEY

SIGNING_KEY = "signing.key"
OPERATOR_TOKEN = "operator.token"

TOKEN_VARIABLE = "DARKROOM_OPERATOR_TOKEN"
"""What it says is the token in the place of what the file has."""

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
        if is_operator_token(secret) if name == OPERATOR_TOKEN else _is_signing_key(secret):
            return secret
        print(f"darkroom: {path} was cut short, or is none: a new one is made, and {LOST[name]}", file=sys.stderr)
    secret = secrets.token_hex(SHORTEST_KEY)
    write_whole(path, secret)
    return secret


def _is_signing_key(text: str) -> bool:
    return len(text) >= SHORTEST_KEY and text.isascii() and text.isprintable()


def token_in(data: Path) -> str | None:
    """The operator's token of a data folder; None where there is none to be read."""
    try:
        return (data / OPERATOR_TOKEN).read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


def operator_token(url: str, data: Path = Path("data")) -> str | None:
    """What makes a command the operator's on a service of this machine that was started in this environment, or over
    this folder, and has no keys. None for a service elsewhere, and where there is neither: then a key is needed."""
    try:
        if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
            return None
    except ValueError:
        return None
    return os.environ.get(TOKEN_VARIABLE) or token_in(data)


def operators_key(url: str, api_key: str | None, data: Path | None) -> str | None:
    """What opens the service to an operator's command: the token of the data folder that is named and nothing else,
    the key, or without one the token of the service that was started over the folder here."""
    return token_in(data) if data is not None else api_key or operator_token(url)
