"""`darkroom trajectory`: how a picture emerged, played in the terminal or written into a file. The picture ends it.

Knows what a job keeps of its pictures' steps: a trajectory, or previews. Refuses to know how a terminal shows frames.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.answers import TRAJECTORY, fits
from app.cli.client import CommandError, Job, Service, converse, is_terminal
from app.cli.decoding import decoded
from app.cli.exits import FAILED, OK, REFUSED
from app.cli.naming import refuse_taken
from app.cli.playing import can_play, play
from app.cli.screen import say, standing
from app.cli.which_job import asked, id_and_index
from app.contract.messages.picture_record import PictureError
from app.contract.messages.trajectory import durations

if TYPE_CHECKING:
    from PIL import Image

PLAIN_ENDING = "-steps.gif"
"""Of the file that a command writes that is not read by a terminal and has no -o, behind the name of what was given."""

FRAMES, WHOLE = (".gif", ".webp", ".png"), (".safetensors", ".json")
"""Suffixes of what is made of frames, and of what is a trajectory's file as it is."""

SMALLEST = 256
"""Pixels of a frame's longer side: previews are small, and a finished picture of 128 pixels is shown larger too."""

LARGEST = 512
"""The finished picture is shown no larger: a GIF of megapixels is of no use."""

SHEET_GAP = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """What is seen of one step, beside each other, and what it is; None for what there is not."""

    panes: Sequence[Image.Image | None]
    words: str


@dataclass(frozen=True, slots=True)
class Steps:
    """A picture's frames, the picture last, and after how many evaluations each of the others was."""

    frames: Sequence[Frame]
    numbers: Sequence[int]
    of: str

    def __str__(self) -> str:
        return f"{len(self.numbers)} {self.of} and the picture"


def write_trajectory(
    given: str, *, index: int | None, output: Path | None, overwrite: bool, as_json: bool, url: str, api_key: str | None
) -> int:
    """Fetch a picture and what was kept of its steps; write it as `output`'s suffix says, or play it where there is no
    `output` and a terminal to play in. Returns the exit code."""

    async def work(service: Service) -> int:
        is_played = output is None and not as_json and can_play()
        file = output or Path(f"{Path(given).stem}{PLAIN_ENDING}")
        if not is_played:
            _refuse(file, overwrite=overwrite)
        job_id, own = await id_and_index(service, given)
        job = await asked(service, job_id, service.job(job_id))
        number = (own or 0) if index is None else index
        picture = _picture_of(job, number)
        if is_played:
            await play((await _steps_of(service, job, picture)).frames)
            return OK
        told, said = await _written(service, job, picture, file)
        say(json.dumps({"file": str(file), "job_id": job["id"], "index": number, **told}) if as_json else said)
        return OK

    return converse("trajectory", url, api_key, work)


def _refuse(output: Path, *, overwrite: bool) -> None:
    if output.suffix.lower() not in FRAMES + WHOLE:
        raise CommandError(
            f"{output} must end in .gif or .webp, which move, in .png for a sheet, in .safetensors for the latents, "
            "or in .json for what each step is",
            REFUSED,
        )
    if not overwrite:
        refuse_taken(output)


async def _written(service: Service, job: Job, picture: dict[str, Any], file: Path) -> tuple[dict[str, Any], str]:
    """What is said of the file, to programs and to people."""
    suffix, kept = file.suffix.lower(), picture.get("trajectory")
    if suffix in WHOLE and not kept:
        raise CommandError(
            f"{job['id']} kept previews, and no latents; draw it again with `darkroom generate --trajectory 1`", FAILED
        )
    if kept and (suffix in WHOLE or (suffix == ".webp" and suffix[1:] in kept["files"])):
        described = await _described(service, job, picture)
        _save(file, await service.download(_link(kept, suffix[1:])))
        numbers = [step["step"] for step in described["steps"]]
        return {"steps": numbers}, f"{file}  {len(numbers)} steps"
    steps = await _steps_of(service, job, picture)
    _save(file, _as_file(suffix, [_in_one(frame) for frame in _of_one_size(steps.frames)]))
    return {"steps": list(steps.numbers)}, f"{file}  {steps}"


async def _steps_of(service: Service, job: Job, picture: dict[str, Any]) -> Steps:
    """From the trajectory where there is one, else from the previews."""
    last = _decoded(await service.download(picture["url"]))
    kept, total = picture.get("trajectory"), job["progress"]["steps"]
    if kept is None:
        previews = picture["previews"]
        frames = _cut(_decoded(await service.download(previews["url"])), previews)
        numbers = previews["steps"]
        words = [f"estimate at step {number} of {total}" for number in numbers]
        shown = [Frame([frame], each) for frame, each in zip(frames, words, strict=True)]
        return Steps([*shown, Frame([last], "the picture")], numbers, "previews")
    described = await _described(service, job, picture)
    sheet = _decoded(await service.download(_link(kept, "jpg")))
    shown = [_frame(sheet, described["show"], step, total) for step in described["steps"]]
    finished = Frame([last] * len(described["show"]), "the picture")
    return Steps([*shown, finished], [step["step"] for step in described["steps"]], "steps")


async def _described(service: Service, job: Job, picture: dict[str, Any]) -> dict[str, Any]:
    """What the steps are. Raises CommandError."""
    described = await service.ask("GET", f"/v1/jobs/{job['id']}/images/{picture['index']}/trajectory.json")
    if not fits(described, TRAJECTORY):
        raise CommandError("the steps of the picture are not as a service describes them", FAILED)
    return described


def _link(kept: dict[str, Any], kind: str) -> str:
    file = kept["files"].get(kind)
    if file is None:
        raise CommandError(f"this trajectory has no .{kind}: its frames could not be made", FAILED)
    return str(file["url"])


def _frame(sheet: Image.Image, show: Sequence[str], step: dict[str, Any], total: int) -> Frame:
    boxes = [step["boxes"].get(series) for series in show]
    words = [f"step {step['step']} of {total}"]
    words += [f"timestep {step['timestep']:g}"] if step["timestep"] is not None else []
    words += [f"sigma {step['sigma']:.3g}"] if step["sigma"] is not None else []
    return Frame([None if box is None else _piece(sheet, box) for box in boxes], "  ".join(words))


def _piece(sheet: Image.Image, box: Sequence[int]) -> Image.Image:
    left, top, width, height = box if len(box) == 4 else (0, 0, 0, 0)
    if min(width, height) < 1 or min(left, top) < 0 or left + width > sheet.width or top + height > sheet.height:
        raise CommandError("the sheet of frames is not as the service describes it", FAILED)
    return sheet.crop((left, top, left + width, top + height))


def _picture_of(job: Job, index: int) -> dict[str, Any]:
    """The picture, with steps or previews. Raises CommandError."""
    if not is_terminal(job):
        raise CommandError(f"the job is {standing(job)}; `darkroom jobs watch {job['id']}` waits for it", FAILED)
    if not job["images"]:
        raise CommandError(f"the job has {job['status']} and has no picture", FAILED)
    by_index: dict[int, dict[str, Any]] = {picture["index"]: picture for picture in job["images"]}
    picture = by_index.get(index)
    if picture is None:
        raise CommandError(f"--index is {_numbers(list(by_index))} for this job", REFUSED)
    if picture.get("trajectory") or picture.get("previews"):
        return picture
    every, steps = job["input"].get("preview_every") or 0, job["progress"]["steps"]
    if job["input"].get("keep_previews"):
        reason = (
            f"had no previews: one after every {every} of {steps} evaluations comes too late; lower --preview-every"
        )
    else:
        reason = (
            "kept no steps and no previews; draw it again with `darkroom generate --trajectory 1`, or with "
            "`--preview-every 2` for small estimates"
        )
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
    width, height, columns = described["width"], described["height"], max(1, described["columns"])
    places = (divmod(number, columns) for number in range(len(described["steps"])))
    return [_piece(sheet, (column * width, row * height, width, height)) for row, column in places]


def _of_one_size(frames: Sequence[Frame]) -> list[Frame]:
    """All as large as the last, within bounds; what is enlarged keeps its squares, as an estimate of few pixels is."""
    from PIL import Image

    last = frames[-1].panes[0]
    assert last is not None, "This is a bug. The last frame is the picture"
    scale = min(LARGEST, max(SMALLEST, *last.size)) / max(last.size)
    size = (max(1, round(last.width * scale)), max(1, round(last.height * scale)))
    smooth, square = Image.Resampling.LANCZOS, Image.Resampling.NEAREST

    def sized(pane: Image.Image | None) -> Image.Image:
        if pane is None:
            return Image.new("RGB", size)
        return pane.convert("RGB").resize(size, square if pane.width < size[0] else smooth)

    return [Frame([sized(pane) for pane in frame.panes], frame.words) for frame in frames]


def _in_one(frame: Frame) -> Image.Image:
    """Its panes, all of one size, beside each other."""
    from PIL import Image

    panes = [pane for pane in frame.panes if pane is not None]
    (width, height), row = panes[0].size, Image.new("RGB", (len(panes) * panes[0].width, panes[0].height))
    for number, pane in enumerate(panes):
        row.paste(pane, (number * width, 0, (number + 1) * width, height))
    return row


def _as_file(suffix: str, frames: Sequence[Image.Image]) -> bytes:
    file = io.BytesIO()
    if suffix == ".png":
        _sheet(frames).save(file, "PNG")
    else:
        options: dict[str, Any] = {"quality": 85} if suffix == ".webp" else {}
        frames[0].save(
            file, suffix[1:].upper(), save_all=True, append_images=list(frames[1:]),
            duration=durations(len(frames)), loop=0, **options,
        )  # fmt: skip
    return file.getvalue()


def _save(output: Path, data: bytes) -> None:
    try:
        output.write_bytes(data)
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
