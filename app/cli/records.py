"""The record inside a picture file, for commands that are given one. Every error is a sentence with the file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.cli.client import CommandError
from app.cli.exits import REFUSED
from app.contract.messages.picture_record import MAX_FILE_BYTES, PictureError, read_record


def bytes_of(picture: Path) -> bytes:
    """The file, cut behind the size that no picture of ours has. Raises CommandError."""
    try:
        with picture.open("rb") as file:
            # One byte too many is enough to be told that it is no picture of ours.
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{picture} cannot be read: {error.strerror}", REFUSED) from None


def record_of(picture: Path, data: bytes) -> dict[str, Any]:
    """What stands in a picture. Raises CommandError where nothing does."""
    try:
        return read_record(data)
    except PictureError as error:
        raise CommandError(f"{picture}: {error.detail}", REFUSED) from None


def same_weights(record: dict[str, Any], served: list[dict[str, Any]]) -> str | None:
    """The served model that drew the picture, whatever it is called here."""
    same = [model["id"] for model in served if model["sha256"] == record.get("model_hash")]
    return record.get("model") if record.get("model") in same else next(iter(same), None)
