"""Pictures and adapters of a request as the command line gives them: files are sent in first, then named by their id.

Knows files, stdin and how `--lora` and `--control` are written. Refuses to know what a model makes of them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from app.cli.client import CommandError, Refused, Service
from app.cli.exits import REFUSED
from app.cli.records import bytes_of
from app.cli.variation import Origin
from app.contract.messages.picture_record import MAX_FILE_BYTES

STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class GivenPicture:
    """A file that was read; nothing was sent yet."""

    name: str
    data: bytes

    @classmethod
    def read(cls, name: str) -> Self:
        """The file of this name, or stdin. Raises CommandError."""
        shown = "stdin" if name == STDIN else name
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if name == STDIN else bytes_of(Path(name))
        if len(data) > MAX_FILE_BYTES:
            raise CommandError(f"{shown} has more than {MAX_FILE_BYTES} bytes", REFUSED)
        return cls(shown, data)

    async def send(self, service: Service) -> dict[str, str]:
        """The reference to it in a request. Raises CommandError, with the name of a file that is not taken."""
        try:
            return {"input": await service.send_picture(self.data)}
        except Refused as refusal:
            reasons = "; ".join(str(error["detail"]) for error in refusal.errors)
            raise CommandError(
                f"{self.name} {reasons}" if reasons else f"{self.name}: {refusal}", refusal.code
            ) from None


@dataclass(frozen=True, slots=True)
class NamedPictures:
    """Pictures and adapters of a request, as options name them. `is_varied`: the new one is drawn as `image` was."""

    image: str | None
    mask: str | None
    loras: tuple[str, ...]
    controls: tuple[str, ...]
    is_varied: bool

    def read(self) -> GivenPictures:
        """The files, and what was said of them. Raises CommandError."""
        split = [_control(each) for each in self.controls]
        names = [name for name in (self.image, self.mask, *(file for _, file in split)) if name is not None]
        if names.count(STDIN) > 1:
            raise CommandError("only one picture can come from stdin", REFUSED)
        image = GivenPicture.read(self.image) if self.image is not None else None
        return GivenPictures(
            image=image,
            mask=GivenPicture.read(self.mask) if self.mask is not None else None,
            controls=tuple((said, GivenPicture.read(file)) for said, file in split),
            loras=tuple(map(_lora, self.loras)),
            origin=Origin.of(image.name, image.data) if image and self.is_varied else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPictures:
    """The same with the files read; nothing was sent yet."""

    image: GivenPicture | None
    mask: GivenPicture | None
    controls: tuple[tuple[dict[str, Any], GivenPicture], ...]
    loras: tuple[dict[str, Any], ...]
    origin: Origin | None

    async def send(self, service: Service, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Members of a request for what is asked; every file has been sent in. Raises CommandError."""
        variation = await self.origin.variation(service, asked) if self.origin else None
        members = dict(variation.members) if variation else {}
        if self.image:
            reference = await self.image.send(service)
            is_point = variation is not None and variation.from_embedding
            members |= {"image_embedding": {"of": reference}} if is_point else {"image": reference}
        if self.mask:
            members["mask_image"] = await self.mask.send(service)
            members.pop("strength", None)
        if self.controls:
            members["control"] = [said | {"image": await file.send(service)} for said, file in self.controls]
        if self.loras:
            members["loras"] = list(self.loras)
        return members


def _lora(text: str) -> dict[str, Any]:
    """`ink:0.8`, or `ink`."""
    name, weight = _weighed(text)
    return {"name": name} | ({} if weight is None else {"weight": weight})


def _control(text: str) -> tuple[dict[str, Any], str]:
    """`canny=edges.png:0.8`, or without the scale; the file apart."""
    model, is_said, rest = text.partition("=")
    if not (model and is_said and rest):
        raise CommandError(f"--control {text} must be MODEL=FILE or MODEL=FILE:SCALE", REFUSED)
    file, scale = (rest, None) if Path(rest).exists() else _weighed(rest)
    return {"model": model} | ({} if scale is None else {"scale": scale}), file


def _weighed(text: str) -> tuple[str, float | None]:
    """What stands before the last colon, and the number behind it, if there is one."""
    name, colon, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return text, None
    return (name, weight) if colon and name and math.isfinite(weight) else (text, None)
