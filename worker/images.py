"""Pixels to a PNG, JPEG or WebP file that says how it was made, and back to that record.

Two notes go into each file: the `parameters` text that the community's programs read (as AUTOMATIC1111 writes it),
and a `darkroom` record in JSON that repeats the picture exactly. Refuses to know where files go, and never looks at
the pixels of a picture it is asked about.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from worker.errors import PictureError, RecordMissing

OutputFormat = Literal["png", "jpeg", "webp"]

MAX_RECORD_BYTES = 60_000
"""A JPEG holds an EXIF or XMP note in one segment of 64 KiB, so no record may be longer, whatever the format."""

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_SIDE = 16_384
MAX_PIXELS = 64_000_000
"""What `read_record` agrees to look at. Only the head is parsed, so no bomb comes near a decoder."""

_SAVE: dict[OutputFormat, dict[str, Any]] = {
    # Level 6, Pillow's default, costs twice the CPU of level 1 for 12 % of the size.
    "png": {"compress_level": 1},
    "jpeg": {"quality": 95, "subsampling": 0},
    # Method 4, the default, takes six times as long as 2 and saved nothing on smooth pictures.
    "webp": {"quality": 90, "method": 2},
}

_UNWRITABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_XMP_NAMESPACE = "urn:darkroom:1.0/"
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:darkroom="{_XMP_NAMESPACE}"><darkroom:record>%s</darkroom:record>'
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)

_SAMPLERS = {
    "ddim": "DDIM",
    "DDIMScheduler": "DDIM",
    "ddpm": "DDPM",
    "pndm": "PLMS",
    "PNDMScheduler": "PLMS",
    "euler": "Euler",
    "EulerDiscreteScheduler": "Euler",
    "euler_a": "Euler a",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "heun": "Heun",
    "HeunDiscreteScheduler": "Heun",
    "lms": "LMS",
    "LMSDiscreteScheduler": "LMS",
    "dpm2": "DPM2",
    "KDPM2DiscreteScheduler": "DPM2",
    "dpm2_a": "DPM2 a",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "unipc": "UniPC",
    "UniPCMultistepScheduler": "UniPC",
    "lcm": "LCM",
    "LCMScheduler": "LCM",
}
"""Our scheduler names in the words that AUTOMATIC1111's sampler list uses; another name is written as it is."""

_SCHEDULES = {"_karras": "Karras", "_exponential": "Exponential", "_sgm_uniform": "SGM Uniform", "_beta": "Beta"}


def encode(pixels: npt.NDArray[np.uint8], *, output_format: OutputFormat, record: Mapping[str, object]) -> bytes:
    """A file of `pixels` [height, width, 3] uint8 RGB with `record` inside.

    PNG keeps the pixels exactly; JPEG is quality 95 without chroma subsampling, WebP quality 90. The GIL is free
    while a PNG is compressed. Raises ValueError for another shape or format and for a record that is no JSON or longer
    than MAX_RECORD_BYTES.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}")
    if output_format not in _SAVE:
        raise ValueError(f"unknown output format {output_format!r}; it is one of {', '.join(_SAVE)}")
    text, note = parameters_text(record), _to_json(record)
    notes = _png_notes(text, note) if output_format == "png" else _exif_and_xmp(text, note)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, output_format.upper(), **_SAVE[output_format], **notes)
    return buffer.getvalue()


def parameters_text(record: Mapping[str, object]) -> str:
    """The record in the form that AUTOMATIC1111's `parameters` has: prompt, negative prompt, one line of settings.

    Reads prompt, negative_prompt, num_inference_steps, scheduler, guidance_scale, seed, width, height, model_hash,
    model and version; what is absent or None is left out.
    """
    lines = [str(record.get("prompt") or "")]
    if negative := record.get("negative_prompt"):
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{label}: {_quote(value)}" for label, value in _settings(record) if value is not None))
    # Readers split at NUL, and a lone surrogate cannot be written at all.
    text = "\n".join(lines).strip().replace("\0", "")
    return text.encode("utf-8", "replace").decode("utf-8")


def read_record(data: bytes) -> dict[str, Any]:
    """The record that `encode` put into this file.

    Raises RecordMissing for a picture without one, PictureError for bytes that are no PNG, JPEG or WebP, that are
    broken, or that are larger than a picture of ours can be.
    """
    note = _read_note(data)
    if note is None:
        raise RecordMissing(
            "the picture carries no darkroom record: made elsewhere, or saved again without its metadata"
        )
    if len(note) > MAX_RECORD_BYTES:
        raise PictureError(f"the picture's darkroom record is longer than {MAX_RECORD_BYTES} bytes")
    try:
        record = json.loads(note)
    except (ValueError, RecursionError) as error:
        raise PictureError(
            "the picture's darkroom record is not JSON: the file was changed after it was made"
        ) from error
    if not isinstance(record, dict):
        raise PictureError("the picture's darkroom record is not a JSON object")
    return record


def _settings(record: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    sampler, schedule = _sampler(record.get("scheduler"))
    width, height, digest = record.get("width"), record.get("height"), record.get("model_hash")
    version = record.get("version")
    yield "Steps", record.get("num_inference_steps")
    yield "Sampler", sampler
    yield "Schedule type", schedule
    yield "CFG scale", record.get("guidance_scale")
    yield "Seed", record.get("seed")
    yield "Size", None if width is None or height is None else f"{width}x{height}"
    # Ten digits are what model sites look up.
    yield "Model hash", None if digest is None else str(digest)[:10]
    yield "Model", record.get("model")
    yield "Version", None if version is None else f"darkroom {version}"


def _sampler(scheduler: object) -> tuple[str | None, str | None]:
    if scheduler is None:
        return None, None
    name = str(scheduler)
    for suffix, schedule in _SCHEDULES.items():
        if name.endswith(suffix) and name not in _SAMPLERS:
            base = name.removesuffix(suffix)
            return _SAMPLERS.get(base, base), schedule
    return _SAMPLERS.get(name, name), None


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
    info.add_itxt("darkroom", note)
    return {"pnginfo": info}


def _exif_and_xmp(text: str, note: str) -> dict[str, Any]:
    exif = Image.Exif()
    exif.endian = ">"
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    return {"exif": exif.tobytes(), "xmp": (_XMP % escape(note)).encode()}


def _read_note(data: bytes) -> str | None:
    if len(data) > MAX_FILE_BYTES:
        raise PictureError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            info = dict(image.info)
    # A warning only where warnings are errors; elsewhere the bounds below refuse the same picture.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("the picture has more pixels than a picture of ours can have") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PictureError("these bytes are no readable PNG, JPEG or WebP picture") from error
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise PictureError("the picture has more pixels than a picture of ours can have")
    if isinstance(png := info.get("darkroom"), str):
        return str(png)
    xmp = info.get("xmp")
    return _record_in_xmp(xmp) if isinstance(xmp, bytes) else None


def _record_in_xmp(xmp: bytes) -> str | None:
    # No XMP packet has a document type, and without one there are no entities to blow up.
    if len(xmp) > 2 * MAX_RECORD_BYTES or b"<!" in xmp:
        raise PictureError("the picture's XMP is none that we wrote: too long, or with declarations")
    try:
        root = ElementTree.fromstring(xmp)
    except ElementTree.ParseError as error:
        raise PictureError("the picture's XMP is not XML: the file was changed after it was made") from error
    name = f"{{{_XMP_NAMESPACE}}}record"
    # Other programs may rewrite the element as an attribute; both mean the same in RDF.
    for element in root.iter():
        note = element.text if element.tag == name else element.get(name)
        if note is not None:
            return note
    return None
