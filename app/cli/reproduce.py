"""`darkroom reproduce`: draws a picture again from the record inside it, and says whether it is the same."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from app.cli.client import REFUSED, CommandError, connect, download, follow, models, submit
from app.contract.params import JobSpec
from app.contract.picture_record import PictureError, read_record

if TYPE_CHECKING:
    from PIL import Image

DIFFERENT = 4
"""Exit code: it was drawn, and is not the same. The others are those of `darkroom generate`; 0 is identical."""

FROM_THE_RECORD = (JobSpec.model_fields.keys() | {"prompt"}) - {"num_images", "preview_every"}
"""What of a record goes into the new wish. Everything else in a stranger's file stays there."""

CIRCUMSTANCES = ("model_hash", "version", "torch", "diffusers", "device", "dtype", "bucket")
"""What else the pixels depend on. Where one differs, a difference is no surprise."""


def reproduce(picture: Path, *, output: Path | None, url: str, api_key: str | None) -> int:
    """Read, draw again, compare, and save the new picture if `output` is given. Returns the exit code."""
    screen = Console(stderr=True)
    try:
        data = _bytes_of(picture)
        record, before = _record_of(picture, data), _decoded(picture.name, data)
        with connect(url, api_key) as client:
            served = models(client)
            for remark in _remarks(record, served):
                screen.print(remark, style="yellow", markup=False)
            job = follow(client, submit(client, _wish(record, served)), screen)
            again = download(client, job["images"][0]["url"])
        if output is not None:
            output.write_bytes(again)
        return _verdict(record, read_record(again), before, _decoded("the new picture", again))
    except (CommandError, PictureError) as error:
        print(f"darkroom reproduce: {error}", file=sys.stderr)
        return error.code if isinstance(error, CommandError) else REFUSED
    except OSError as error:
        print(f"darkroom reproduce: {output} cannot be written: {error.strerror}", file=sys.stderr)
        return REFUSED


def _bytes_of(picture: Path) -> bytes:
    try:
        return picture.read_bytes()
    except OSError as error:
        raise CommandError(f"{picture} cannot be read: {error.strerror}", REFUSED) from None


def _record_of(picture: Path, data: bytes) -> dict[str, Any]:
    try:
        return read_record(data)
    except PictureError as error:
        raise CommandError(f"{picture}: {error.detail}", REFUSED) from None


def _decoded(name: str, data: bytes) -> Image.Image:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise CommandError(
            "pillow is not installed, which compares the pictures: pip install pillow", REFUSED
        ) from None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise CommandError(f"{name} cannot be decoded: {error}", REFUSED) from None


def _wish(record: dict[str, Any], served: list[dict[str, Any]]) -> dict[str, Any]:
    # What the record does not have is left out: it was made before there was such a parameter.
    wish = {name: record[name] for name in sorted(FROM_THE_RECORD) if record.get(name) is not None}
    return wish | {"model": _same_weights(record, served) or wish.get("model")}


def _same_weights(record: dict[str, Any], served: list[dict[str, Any]]) -> str | None:
    """The served model that drew the picture, whatever it is called here."""
    same = [model["id"] for model in served if model["sha256"] == record.get("model_hash")]
    return record.get("model") if record.get("model") in same else next(iter(same), None)


def _remarks(record: dict[str, Any], served: list[dict[str, Any]]) -> Iterator[str]:
    """What to know before it is drawn."""
    name, same = record.get("model"), _same_weights(record, served)
    here = next((model["sha256"] for model in served if model["id"] == name), None)
    if same is None and here is not None:
        theirs = str(record.get("model_hash"))[:10]
        yield f"another model: the picture is from {theirs}, {name} here is {here[:10]}; expect another picture"
    elif same is not None and same != name:
        yield f"the picture's model {name} is served as {same} here"
    if not record.get("reproducible"):
        yield "the picture was not drawn as reproducible: rounding depends on what was drawn beside it"


def _verdict(old: dict[str, Any], new: dict[str, Any], before: Image.Image, after: Image.Image) -> int:
    """Say how far the two are apart, and what may be the reason. Returns the exit code."""
    from PIL import ImageChops, ImageStat

    if before.size != after.size:
        print(f"different: {before.size[0]}x{before.size[1]} then, {after.size[0]}x{after.size[1]} now")
        return DIFFERENT
    difference = ImageChops.difference(before, after)
    if difference.getbbox() is None:
        print("identical: every pixel")
        return 0
    mean = sum(ImageStat.Stat(difference).mean) / 3
    largest = max(high for _, high in difference.getextrema())
    print(f"different: {mean:.3g} of 255 on average, {largest} at most")
    for name in CIRCUMSTANCES:
        if old.get(name) != new.get(name):
            print(f"  {name}: {old.get(name, 'not recorded')} then, {new.get(name)} now")
    return DIFFERENT
