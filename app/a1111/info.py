"""What an answer says of its pictures: the JSON of `info`, and the text that is in each file.

Knows the words that clients read. Refuses to fetch anything.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from app import __version__
from app.a1111.samplers import words_of
from app.contract.messages.job import Record
from app.contract.messages.picture_record import MAX_RECORD_BYTES, PictureError, opened

NOTE: Final = "parameters"
"""Keyword of the PNG text chunk that the web UI writes."""

_USER_COMMENT = 0x9286
_EXIF = 0x8769
_ENCODINGS: Final = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "ascii", b"\0" * 8: "utf-8"}

_SETTING = re.compile(r'\s*(\w[\w \-/]{0,99}):\s*("(?:\\.|[^\\"]){0,9999}"|[^,]{0,9999})(?:,|$)')
"""One setting of the last line; names and the form of quoted values as modules/infotext_utils.py has them."""

MOST_TEXTS: Final = 16
"""Of one file."""

LONGEST_LINE: Final = 8_000
"""Characters of settings that are read: anybody's file may hold a megabyte of them."""

FEWEST_SETTINGS: Final = 3
"""A last line with fewer is a part of the prompt."""


def info(record: Record, infotexts: list[str], *, model_hash: str | None, more: dict[str, Any]) -> str:
    """The JSON text of an answer's `info`. `more` is what this service says beside the web UI's words."""
    spec, images = record.spec, record.images
    sampler, schedule = words_of(spec.scheduler)
    count, negative = len(images), spec.negative_prompt or ""
    seeds = [image.seed for image in images]
    said = {
        "prompt": spec.prompt,
        "all_prompts": [spec.prompt] * count,
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * count,
        "seed": spec.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
        "width": spec.width,
        "height": spec.height,
        "sampler_name": sampler,
        "cfg_scale": spec.guidance_scale,
        "steps": spec.num_inference_steps,
        "batch_size": spec.num_images,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": record.model,
        "sd_model_hash": model_hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": 0,
        "seed_resize_from_h": 0,
        "denoising_strength": spec.strength,
        "extra_generation_params": {"Schedule type": schedule} if schedule else {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": datetime.fromtimestamp(record.created_ms / 1000, UTC).strftime("%Y%m%d%H%M%S"),
        "clip_skip": (spec.clip_skip or 0) + 1,
        "is_using_inpainting_conditioning": False,
        "version": f"darkroom {__version__}",
    }
    return json.dumps(said | more)


def notes_of(data: bytes) -> tuple[str, dict[str, str]]:
    """The `parameters` text in a picture's file, "" if it has none, and its other texts, each if it is no longer than
    ours can be: a small file may hold many megabytes of them. Slow: not for the event loop.

    Raises PictureError for what is no PNG, JPEG or WebP.
    """
    from PIL import Image

    with opened(data) as image:
        texts = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
        texts = {name: value for name, value in texts.items() if len(value) <= MAX_RECORD_BYTES}
        found = texts.pop(NOTE, None)
        # Not the PNG's own, which decodes all pixels, 170 million of them, to see whether EXIF comes behind.
        exif = Image.Image.getexif(image)
        return found or _in_exif(exif.get_ifd(_EXIF).get(_USER_COMMENT)), dict([*texts.items()][:MOST_TEXTS])


def infotext(data: bytes) -> str:
    """The text alone; "" for a file that cannot be read."""
    try:
        return notes_of(data)[0]
    except PictureError:
        return ""


def parsed(text: str) -> dict[str, str]:
    """The settings in such a text, by the web UI's names; `Size` also as Size-1 and Size-2."""
    *lines, last = text.strip().split("\n")
    settings = _SETTING.findall(last) if len(last) <= LONGEST_LINE else []
    if len(settings) < FEWEST_SETTINGS:
        lines, settings = [*lines, last], []
    prompt, _, negative = "\n".join(lines).partition("Negative prompt:")
    found = {"Prompt": prompt.strip(), "Negative prompt": negative.strip()}
    for name, value in settings:
        found[name] = _unquoted(value)
    sides = re.fullmatch(r"(\d+)x(\d+)", found.get("Size", ""))
    return found | ({"Size-1": sides[1], "Size-2": sides[2]} if sides else {})


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _in_exif(comment: Any) -> str:
    if not isinstance(comment, bytes):
        return comment if isinstance(comment, str) else ""
    return comment[8:MAX_RECORD_BYTES].decode(_ENCODINGS.get(comment[:8], "utf-8"), "replace")
