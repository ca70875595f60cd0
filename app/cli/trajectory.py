"""`darkroom trajectory`: the previews a job kept, as a picture that moves or as a sheet. The picture itself ends it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.client import CommandError, Job, Service, converse, is_terminal
from app.cli.decoding import decoded
from app.cli.exits import FAILED, OK, REFUSED
from app.cli.naming import refuse_taken
from app.cli.screen import say, standing
from app.cli.which_job import asked, id_and_index
from app.contract.messages.picture_record import PictureError
from app.contract.messages.trajectory import durations

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".gif", ".webp", ".png")
SMALLEST = 256
"""Pixels of a frame's longer side: previews are small, and a finished picture of 128 pixels is shown larger too."""

LARGEST = 512
"""The finished picture is shown no larger: a GIF of megapixels is of no use."""

SHEET_GAP = 4


def write_trajectory(
    given: str, *, index: int | None, output: Path, overwrite: bool, as_json: bool, url: str, api_key: str | None
) -> int:
    """Fetch a picture and its previews, and write them as `output`'s suffix says. Returns the exit code."""

    async def work(service: Service) -> int:
        if output.suffix.lower() not in SUFFIXES:
            raise CommandError(f"{output} must end in .gif or .webp, which move, or in .png for a sheet", REFUSED)
        if not overwrite:
            refuse_taken(output)
        job_id, own = await id_and_index(service, given)
        job = await asked(service, job_id, service.job(job_id))
        number = (own or 0) if index is None else index
        picture = _picture_of(job, number)
        sheet, last = await service.download(picture["previews"]["url"]), await service.download(picture["url"])
        frames = [*_cut(_decoded(sheet), picture["previews"]), _decoded(last)]
        _write(output, _of_one_size(frames))
        steps = picture["previews"]["steps"]
        told = {"file": str(output), "job_id": job["id"], "index": number, "steps": steps}
        say(json.dumps(told) if as_json else f"{output}  {len(steps)} previews and the picture")
        return OK

    return converse("trajectory", url, api_key, work)


def _picture_of(job: Job, index: int) -> dict[str, Any]:
    """The picture, with previews. Raises CommandError."""
    if not is_terminal(job):
        raise CommandError(f"the job is {standing(job)}; `darkroom jobs watch {job['id']}` waits for it", FAILED)
    if not job["images"]:
        raise CommandError(f"the job has {job['status']} and has no picture", FAILED)
    by_index: dict[int, dict[str, Any]] = {picture["index"]: picture for picture in job["images"]}
    picture = by_index.get(index)
    if picture is None:
        raise CommandError(f"--index is {_numbers(list(by_index))} for this job", REFUSED)
    if picture.get("previews"):
        return picture
    every, steps = job["input"].get("preview_every") or 0, job["progress"]["steps"]
    if job["input"].get("keep_previews"):
        reason = (
            f"had no previews: one after every {every} of {steps} evaluations comes too late; lower --preview-every"
        )
    else:
        reason = "kept no previews; draw it again with `darkroom generate --preview-every 2` (or `keep_previews`)"
    raise CommandError(f"{job['id']} {reason}", FAILED)


def _numbers(of: Sequence[int]) -> str:
    """Those of a job's pictures, of which some may not be shown: "0 to 3", or "0, 2"."""
    return f"0 to {len(of) - 1}" if list(of) == list(range(len(of))) else ", ".join(map(str, of))


def _decoded(data: bytes) -> Image.Image:
    try:
        return decoded(data)
    except PictureError as error:
        raise CommandError(f"what the service sent cannot be decoded: {error}", FAILED) from None


def _cut(sheet: Image.Image, described: dict[str, Any]) -> list[Image.Image]:
    width, height, columns = described["width"], described["height"], described["columns"]
    rows = -(-len(described["steps"]) // max(1, columns))
    if min(width, height, columns) < 1 or columns * width > sheet.width or rows * height > sheet.height:
        raise CommandError("the sheet of previews is not as the service describes it", FAILED)
    places = (divmod(number, columns) for number in range(len(described["steps"])))
    corners = [(column * width, row * height) for row, column in places]
    return [sheet.crop((left, top, left + width, top + height)) for left, top in corners]


def _of_one_size(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """All as large as the last, within bounds; what is enlarged keeps its squares, as an estimate of few pixels is."""
    from PIL import Image

    last = frames[-1]
    longer = max(last.size)
    scale = min(LARGEST, max(SMALLEST, longer)) / longer
    size = (max(1, round(last.width * scale)), max(1, round(last.height * scale)))
    smooth, square = Image.Resampling.LANCZOS, Image.Resampling.NEAREST
    return [frame.resize(size, square if frame.width < size[0] else smooth) for frame in frames]


def _write(output: Path, frames: Sequence[Image.Image]) -> None:
    file, suffix = io.BytesIO(), output.suffix.lower()
    if suffix == ".png":
        _sheet(frames).save(file, "PNG")
    else:
        options: dict[str, Any] = {"quality": 85} if suffix == ".webp" else {}
        frames[0].save(
            file, suffix[1:].upper(), save_all=True, append_images=list(frames[1:]),
            duration=durations(len(frames)), loop=0, **options,
        )  # fmt: skip
    try:
        output.write_bytes(file.getvalue())
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}; choose another -o", REFUSED) from None


def _sheet(frames: Sequence[Image.Image]) -> Image.Image:
    """All frames in rows, about as wide as high."""
    from PIL import Image

    (width, height), columns = frames[0].size, ceil(sqrt(len(frames)))
    rows = -(-len(frames) // columns)
    size = columns * (width + SHEET_GAP) - SHEET_GAP, rows * (height + SHEET_GAP) - SHEET_GAP
    sheet = Image.new("RGB", size, "white")
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        sheet.paste(frame, (column * (width + SHEET_GAP), row * (height + SHEET_GAP)))
    return sheet
