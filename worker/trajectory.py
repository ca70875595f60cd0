"""What was kept of a picture's steps, as files: JSON of what each step is, the latents as safetensors, a sheet of small
frames, and a film that ends with the picture.

Knows recordings and pixels. Refuses to know where files go: finisher.py stores them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from app.contract.messages.trajectory import Decode, Shown, durations
from worker.engine.recording import Recording
from worker.images import encode_sheet

PANE = 256
"""Pixels of a film's longer side, for each series that it shows: what players show without being asked to enlarge."""

QUALITY, METHOD = 75, 1
"""Of libwebp. Method 4, the default, takes twice as long and saves 3 % of a film that begins with noise."""

SHEET_SIDE = 4_096
"""Pixels that a sheet is wide at most, and about as high: every browser can draw that."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Of which picture: its pixels, uint8 [height, width, 3], and what the JSON says of it beside its steps."""

    pixels: NDArray[np.uint8]
    said: Mapping[str, Any]


def files_of(recording: Recording, drawn: Drawn, *, every: int, decode: Decode) -> dict[str, bytes]:
    """By their extensions. Without sheet and film where there was nothing to make colours with."""
    frames = list(_frames(recording, drawn.pixels))
    said = dict(drawn.said) | {"every": every, "decode": decode, "show": list(recording.latents)}
    files = {"safetensors": latents_file(recording, said)}
    boxes: Mapping[tuple[Shown, int], Box] = {}
    if frames:
        files["jpg"], said["sheet"], boxes = _sheet(frames)
        files["webp"] = _film(recording, frames, drawn.pixels)
    files["json"] = json.dumps(said | {"steps": _steps(recording, boxes)}, separators=(",", ":")).encode()
    return files


def latents_file(recording: Recording, said: Mapping[str, Any]) -> bytes:
    """The kept latents of each series as float16 [steps, C, h, w]; `step`, `timestep` and `sigma` of those of `noisy`,
    or of all. Estimates have none for the first noise. What is unknown is NaN. In the header: `darkroom`, JSON."""
    whole = recording.whole
    tensors: dict[str, NDArray[Any]] = {}
    for series, latents in recording.latents.items():
        tensors[series] = np.ascontiguousarray(latents[[k for k in whole if series in recording.moments[k].series]])
    moments = [recording.moments[k] for k in whole]
    tensors["step"] = np.array([moment.step for moment in moments], np.int64)
    tensors["timestep"] = np.array([moment.timestep for moment in moments], np.float32)
    tensors["sigma"] = np.array([moment.sigma for moment in moments], np.float32)
    data: bytes = save(tensors, metadata={"darkroom": json.dumps(said)})
    return data


def _steps(recording: Recording, boxes: Mapping[tuple[Shown, int], Box]) -> list[dict[str, Any]]:
    return [_step(recording, place, boxes) for place in recording.whole]


def _step(recording: Recording, place: int, boxes: Mapping[tuple[Shown, int], Box]) -> dict[str, Any]:
    moment = recording.moments[place]
    shown = [series for series in recording.latents if series in moment.series]
    return {
        "step": moment.step,
        "timestep": moment.timestep,
        "sigma": _finite(moment.sigma),
        "norms": {series: _rounded(recording.norm(series, place)) for series in shown},
        "boxes": {series: boxes[series, place] for series in shown if (series, place) in boxes},
    }


def _frames(recording: Recording, picture: NDArray[np.uint8]) -> Iterator[tuple[Shown, int, NDArray[np.uint8]]]:
    """All that there are, series by series. The last noisy one is the picture: its latents are the picture's."""
    decoded = next(iter(recording.decoded.values()), None)
    for series in recording.latents:
        for place in recording.whole:
            if series not in recording.moments[place].series:
                continue
            pixels = recording.pixels(series, place)
            if recording.is_picture(series, place):
                like = decoded if pixels is None else pixels
                pixels = None if like is None else _small(picture, like=like)
            if pixels is not None:
                yield series, place, pixels


def _sheet(
    frames: Sequence[tuple[Shown, int, NDArray[np.uint8]]],
) -> tuple[bytes, dict[str, int], dict[tuple[Shown, int], Box]]:
    """The file, its sides, and where in it each frame is."""
    columns = ceil(sqrt(len(frames)))
    sheet = encode_sheet([pixels for _, _, pixels in frames], columns=columns, side=SHEET_SIDE // columns)
    boxes = {}
    for number, (series, place, _) in enumerate(frames):
        row, column = divmod(number, columns)
        boxes[series, place] = (column * sheet.width, row * sheet.height, sheet.width, sheet.height)
    sides = {"width": columns * sheet.width, "height": ceil(len(frames) / columns) * sheet.height}
    return sheet.data, sides, boxes


def _film(
    recording: Recording, frames: Sequence[tuple[Shown, int, NDArray[np.uint8]]], picture: NDArray[np.uint8]
) -> bytes:
    """Every step, its series side by side; at the end the picture, for a while."""
    seen = {(series, place): pixels for series, place, pixels in frames}
    panes = list(recording.latents)
    places = [place for place in recording.whole if any((series, place) in seen for series in panes)]
    images = [_pane_row([seen.get((series, place)) for series in panes], like=picture) for place in places]
    images[-1] = _pane_row([picture] * len(panes), like=picture)
    file = io.BytesIO()
    images[0].save(
        file, "WEBP", save_all=True, append_images=images[1:],
        duration=durations(len(images)), loop=0, quality=QUALITY, method=METHOD,
    )  # fmt: skip
    return file.getvalue()


def _pane_row(pixels: Sequence[NDArray[np.uint8] | None], *, like: NDArray[np.uint8]) -> Image.Image:
    """Beside each other, as large as a film has them; what there is not is black."""
    height, width = like.shape[:2]
    scale = PANE / max(height, width)
    sides = max(1, round(width * scale)), max(1, round(height * scale))
    row = Image.new("RGB", (len(pixels) * sides[0], sides[1]))
    for number, each in enumerate(pixels):
        if each is not None:
            row.paste(_resized(each, sides), (number * sides[0], 0))
    return row


def _small(picture: NDArray[np.uint8], *, like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(_resized(picture, (like.shape[1], like.shape[0])))


def _resized(pixels: NDArray[np.uint8], sides: tuple[int, int]) -> Image.Image:
    """What is enlarged keeps its squares: an estimate has few pixels."""
    is_enlarged = pixels.shape[1] < sides[0]
    return Image.fromarray(pixels).resize(sides, Image.Resampling.NEAREST if is_enlarged else Image.Resampling.LANCZOS)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def _finite(number: float | None) -> float | None:
    """As JSON has it."""
    return number if number is not None and isfinite(number) else None
