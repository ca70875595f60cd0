"""Pictures of this machine that a request begins with: read, sent in, and named in the request by their ids.

Knows files and the service. Refuses to know what is drawn from them: what is no picture the service says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from app.cli.client import CommandError, Refused, Service
from app.cli.exits import REFUSED
from app.contract.messages.picture_record import MAX_FILE_BYTES

References = dict[str, dict[str, str]]
"""Member of a request to the picture it names."""


def read_pictures(files: Mapping[str, Path]) -> dict[str, tuple[Path, bytes]]:
    """The bytes of each file, by the member of a request that it is for. Raises CommandError."""
    return {name: (path, _read(path)) for name, path in files.items()}


async def send_pictures(service: Service, pictures: Mapping[str, tuple[Path, bytes]]) -> References:
    """Send them in. Raises CommandError, with the name of the file that the service does not take."""
    return {name: {"input": await _send(service, path, data)} for name, (path, data) in pictures.items()}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", REFUSED) from None
    if len(data) > MAX_FILE_BYTES:
        raise CommandError(f"{path} has more than {MAX_FILE_BYTES} bytes", REFUSED)
    return data


async def _send(service: Service, path: Path, data: bytes) -> str:
    try:
        return await service.send_picture(data)
    except Refused as refusal:
        reasons = "; ".join(str(error["detail"]) for error in refusal.errors) or str(refusal)
        raise CommandError(f"{path} {reasons}", refusal.code) from None
