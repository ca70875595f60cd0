"""A small picture of what each LoRA does, from the preview that lies beside its file.

Knows files and Pillow. Refuses to know where thumbnails are kept. What it cannot show is passed over with a log line:
nobody's picture depends on it.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog
from PIL import Image, ImageOps

from app.contract.messages.card import Adapter, ModelCard
from worker.models.adapter_folder import preview_beside

log = structlog.get_logger()

SIDE: Final = 256
"""Pixels of a thumbnail's longer side."""

MOST_BYTES: Final = 20 * 2**20
MOST_PIXELS: Final = 16 * 2**20
"""Of a preview, by its header: 200 MB while it is decoded."""

Keep = Callable[[bytes], str | None]
"""Keeps a JPEG and says the sha256 by which it is found, or None if it could not be kept."""


class UnfitPreview(Exception):
    """It is not shown; the text says why."""


def with_thumbnails(card: ModelCard, loras: Mapping[str, Path], keep: Keep) -> ModelCard:
    """The card with the thumbnail of each LoRA that has one. `loras` are their files."""
    return card.model_copy(update={"loras": tuple(_shown(each, loras[each.name], keep) for each in card.loras)})


def _shown(adapter: Adapter, file: Path, keep: Keep) -> Adapter:
    preview = preview_beside(file)
    if preview is None:
        return adapter
    try:
        thumbnail = thumbnail_of(preview)
    # Pillow raises whatever a damaged file makes it raise.
    except Exception as error:
        log.warning("a preview is not shown", file=preview.name, reason=str(error) or type(error).__name__)
        return adapter
    return adapter.model_copy(update={"thumbnail": keep(thumbnail)})


def thumbnail_of(preview: Path) -> bytes:
    """A JPEG of the preview's pixels and nothing else of it, at most SIDE wide and high.

    Raises UnfitPreview, OSError, and what Pillow does of a damaged file.
    """
    with Image.open(io.BytesIO(_read(preview)), formats=("PNG", "JPEG", "WEBP")) as image:
        if image.width * image.height > MOST_PIXELS:
            raise UnfitPreview(f"it has more than {MOST_PIXELS} pixels")
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        upright = ImageOps.exif_transpose(image)
    upright.thumbnail((SIDE, SIDE))
    bare = Image.new("RGB", upright.size, "white")
    bare.paste(upright.convert("RGBA"), mask=upright.convert("RGBA").getchannel("A"))
    file = io.BytesIO()
    bare.save(file, "JPEG", quality=85)
    return file.getvalue()


def _read(preview: Path) -> bytes:
    """Its bytes. Raises UnfitPreview for what is no file of this folder: a link may lead anywhere."""
    whole = preview.resolve(strict=True)
    if not whole.is_relative_to(preview.parent.resolve()):
        raise UnfitPreview("it is a link that leads out of the folder")
    with open(os.open(whole, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UnfitPreview("it is no file")
        if about.st_size > MOST_BYTES:
            raise UnfitPreview(f"it has more than {MOST_BYTES} bytes")
        return file.read(MOST_BYTES)
