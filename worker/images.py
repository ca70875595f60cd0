"""Pixels to a PNG, JPEG or WebP file that says how it was made.

Two notes go into each file: the `parameters` text that the community's programs read (as AUTOMATIC1111 writes it),
and a `darkroom` record in JSON that repeats the picture exactly (app/contract/messages/picture_record.py reads it).
Refuses to know where files go.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from app.contract.messages.a1111_syntax import escaped
from app.contract.messages.picture_record import KEYWORD, MAX_RECORD_BYTES, XMP_NAMESPACE
from app.contract.messages.schedulers import sampler_words
from app.contract.messages.spec import OutputFormat

PREVIEW_SIDE = 256
"""Pixels. Even noise of this size stays below keys.MAX_PREVIEW."""

SHEET_COLUMNS = 8
"""64 frames of PREVIEW_SIDE are 2048 x 2048 pixels: every program and browser opens that."""

_SAVE: dict[OutputFormat, dict[str, Any]] = {
    # Level 6, Pillow's default, costs twice the CPU of level 1 for 12 % of the size.
    "png": {"compress_level": 1},
    "jpeg": {"quality": 95, "subsampling": 0},
    # Method 4, the default, takes six times as long as 2 and saved nothing on smooth pictures.
    "webp": {"quality": 90, "method": 2},
}

FINE_JPEG = 90
"""From this quality on a JPEG keeps the colour of every pixel. Below, whoever asks wants a small file."""

_UNWRITABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:darkroom="{XMP_NAMESPACE}"><darkroom:record>%s</darkroom:record>'
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


@dataclass(frozen=True, slots=True)
class SheetFile:
    """A JPEG of many frames, each of width x height pixels."""

    data: bytes
    width: int
    height: int
    columns: int


def encode(
    pixels: npt.NDArray[np.uint8],
    *,
    output_format: OutputFormat,
    record: Mapping[str, object],
    quality: int | None = None,
) -> bytes:
    """A file of `pixels` [height, width, 3] uint8 RGB with `record` inside.

    PNG keeps the pixels exactly; without `quality` (0 to 100) JPEG has 95, without chroma subsampling, and WebP 90. The
    GIL is free while a PNG is compressed. Raises ValueError for another shape or format and for a record that is no
    JSON or longer than MAX_RECORD_BYTES.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}")
    if output_format not in _SAVE:
        raise ValueError(f"unknown output format {output_format!r}; it is one of {', '.join(_SAVE)}")
    text, note = parameters_text(record), _to_json(record)
    notes = _png_notes(text, note) if output_format == "png" else _exif_and_xmp(text, note)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, output_format.upper(), **_options(output_format, quality), **notes)
    return buffer.getvalue()


def _options(output_format: OutputFormat, quality: int | None) -> dict[str, Any]:
    options = _SAVE[output_format]
    if quality is None or output_format == "png":
        return options
    if output_format == "jpeg":
        return {"quality": quality, "subsampling": 0 if quality >= FINE_JPEG else 2}
    return options | {"quality": quality}


def encode_preview(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A small JPEG of `pixels` [height, width, 3] without any note, for somebody who watches. PREVIEW_SIDE at most."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def encode_sheet(
    frames: Sequence[npt.NDArray[np.uint8]], *, columns: int = SHEET_COLUMNS, side: int = PREVIEW_SIDE
) -> SheetFile:
    """Frames, uint8 [height, width, 3] and all of one shape, as one JPEG: row by row, each of `side` pixels at most,
    and never more than PREVIEW_SIDE.

    Raises ValueError without any frame.
    """
    images = [Image.fromarray(frame) for frame in frames]
    if not images:
        raise ValueError("a sheet needs a frame")
    for image in images:
        image.thumbnail((min(side, PREVIEW_SIDE),) * 2)
    (width, height), columns = images[0].size, min(len(images), columns)
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        sheet.paste(image, (column * width, row * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return SheetFile(buffer.getvalue(), width, height, columns)


def parameters_text(record: Mapping[str, object]) -> str:
    """The record in the form that AUTOMATIC1111's `parameters` has: prompt, negative prompt, one line of settings.

    Theirs have only one syntax: prompts that were read as letters are written so that it reads the same. Reads prompt,
    prompt_syntax, loras, negative_prompt, num_inference_steps, scheduler, solver, guidance_scale, seed, width, height,
    model_hash, model, clip_skip and version; what is absent or None is left out.
    """
    write = str if record.get("prompt_syntax") == "a1111" else escaped
    lines = [" ".join([write(str(record.get("prompt") or "")), *_lora_words(record)])]
    if negative := record.get("negative_prompt"):
        lines.append(f"Negative prompt: {write(str(negative))}")
    lines.append(", ".join(f"{label}: {_quote(value)}" for label, value in _settings(record) if value is not None))
    # Readers split at NUL, and a lone surrogate cannot be written at all.
    text = "\n".join(lines).strip().replace("\0", "")
    return text.encode("utf-8", "replace").decode("utf-8")


def _lora_words(record: Mapping[str, object]) -> Iterator[str]:
    """Theirs stand in the prompt, whatever ours is read as."""
    loras = record.get("loras")
    for lora in loras if isinstance(loras, list) else ():
        word = f"<lora:{lora['name']}:{lora['weight']:g}>"
        if word not in str(record.get("prompt")):
            yield word


def _settings(record: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    name, solver = record.get("scheduler"), record.get("solver")
    named = sampler_words(str(name), solver if isinstance(solver, Mapping) else {}) if name else (None, None, 0.0)
    sampler, schedule, eta = named
    width, height, digest = record.get("width"), record.get("height"), record.get("model_hash")
    version = record.get("version")
    yield "Steps", record.get("num_inference_steps")
    yield "Sampler", sampler
    yield "Schedule type", schedule
    # Without it, their DDIM would be read as the deterministic one.
    yield "Eta DDIM", eta or None
    yield "CFG scale", record.get("guidance_scale")
    yield "Seed", record.get("seed")
    yield "Size", None if width is None or height is None else f"{width}x{height}"
    # Ten digits are what model sites look up.
    yield "Model hash", None if digest is None else str(digest)[:10]
    yield "Model", record.get("model")
    # Theirs counts from 1, the last layer.
    yield "Clip skip", clip_skip + 1 if isinstance(clip_skip := record.get("clip_skip"), int) else None
    yield "Version", None if version is None else f"darkroom {version}"


def _quote(value: object) -> str:
    # AUTOMATIC1111, modules/infotext_utils.py: a comma, a newline or a colon asks for quotes, and those are JSON's.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",\n:") else text


def _to_json(record: Mapping[str, object]) -> str:
    try:
        text = json.dumps(dict(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the record is not JSON: {error}") from error
    # XML allows none of these, and UTF-8 no lone surrogate; inside a JSON string an escape means the same.
    text = _UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if len(text.encode()) > MAX_RECORD_BYTES:
        raise ValueError(f"the record is longer than {MAX_RECORD_BYTES} bytes")
    return text


def _png_notes(text: str, note: str) -> dict[str, Any]:
    info = PngImagePlugin.PngInfo()
    # Latin-1 goes into tEXt, everything else into iTXt: what AUTOMATIC1111 does, through the same call.
    info.add_text("parameters", text)
    info.add_itxt(KEYWORD, note)
    return {"pnginfo": info}


def _exif_and_xmp(text: str, note: str) -> dict[str, Any]:
    exif = Image.Exif()
    exif.endian = ">"
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    return {"exif": exif.tobytes(), "xmp": (_XMP % escape(note)).encode()}
