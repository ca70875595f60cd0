"""A picture of a stranger, decoded whole and written anew: what comes out has its pixels and nothing else of it.

Knows Pillow and the three formats. Refuses to know whose the picture is and where it goes. Slow: one of 16 megapixels
takes seconds and some 250 MB, so that whoever calls bounds how many are cleaned at a time.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from app.contract.messages.picture_bytes import PictureBytes, TooManyParts
from app.pictures.clean_picture import CleanPicture, UnfitPicture

MAX_PIXELS: Final = 16 * 1024 * 1024
MAX_SIDE: Final = 16_384
"""Pixels: the longest side that a job may have (`PictureSpec.width`)."""

MAX_SCANS: Final = 100
"""A progressive JPEG has ten or so. Each is one pass over all pixels, and a file of 20 MB can hold 200,000."""

KINDS: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp"}
"""Pillow's name to media type. MPO is what phones write: a JPEG with more pictures behind it, of which none is read."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, LookupError, struct.error)
"""What Pillow raises for bytes that are wrong. A MemoryError would be ours."""

_START_OF_SCAN = b"\xff\xda"
_UNUSUAL_QUALITY = 95


def clean(data: bytes, *, declared: str | None = None) -> CleanPicture:
    """The picture, upright (EXIF's orientation is applied), in sRGB, without metadata and whatever was hidden in it.

    `declared` is the media type that its sender gave, if that has to be true. Raises UnfitPicture for bytes that are no
    PNG, JPEG or WebP of one frame, that are not whole, or that hold more than MAX_PIXELS.
    """
    if not data:
        raise UnfitPicture("empty", "holds no bytes")
    with _readable(data) as image:
        _judge(image, data, declared)
        image.load()
        return _written(_upright(image), image)


@contextmanager
def _readable(data: bytes) -> Iterator[Image.Image]:
    """The picture with its header read. Raises UnfitPicture for what is wrong with it, whenever that is noticed."""
    try:
        with Image.open(PictureBytes(data), formats=("PNG", "JPEG", "WEBP")) as image:
            yield image
    except Image.UnidentifiedImageError as error:
        raise UnfitPicture("not_a_picture", "is no PNG, JPEG or WebP picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels() from error
    except TooManyParts as error:
        raise UnfitPicture("too_many_parts", "is cut into too many small parts: save it anew") from error
    except _BROKEN as error:
        raise UnfitPicture("broken", "is not whole, or was damaged on the way: it cannot be decoded") from error


def _too_many_pixels() -> UnfitPicture:
    return UnfitPicture("too_many_pixels", f"has more than {MAX_PIXELS} pixels (16 megapixels)")


def _judge(image: Image.Image, data: bytes, declared: str | None) -> None:
    """By the header alone: no pixel has been decoded yet."""
    kind = KINDS[image.format or ""]
    if declared is not None and declared != kind:
        raise UnfitPicture("type_differs", f"is said to be {declared}, and is {kind}")
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels()
    if max(image.size) > MAX_SIDE:
        raise UnfitPicture("side_too_long", f"has a side of more than {MAX_SIDE} pixels")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise UnfitPicture("animated", "is animated: send one frame of it")
    if kind == "image/jpeg" and data.count(_START_OF_SCAN) > MAX_SCANS:
        raise UnfitPicture("too_many_scans", f"is a JPEG of more than {MAX_SCANS} scans: save it anew")


def _upright(image: Image.Image) -> Image.Image:
    """As L, RGB or RGBA in sRGB, turned as EXIF says."""
    profile = image.info.get("icc_profile")
    turned = _turned(_of_eight_bits(image))
    plain = _in_srgb(turned, profile) if profile else turned
    has_alpha = plain.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in plain.info
    wanted = "RGBA" if has_alpha else "L" if plain.mode in ("L", "1") else "RGB"
    return plain if plain.mode == wanted else plain.convert(wanted)


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        # A note that nobody can read says nothing. The pixels are whole.
        return image


def _of_eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    # Pillow would cut what is above 255, and make a grey ramp of 16 bits white.
    eight = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    eight.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return eight


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The colours that the profile means. As browsers do it, one that is broken or for another kind of picture counts
    as none."""
    if image.mode in ("P", "PA", "LA", "1") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode in ("PA", "LA") or "transparency" in image.info else "RGB")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha else image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (source.profile.profile_description or ""):
            return image
        target = ImageCms.createProfile("sRGB")
        meant: Any = ImageCms.profileToProfile(colours, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    if alpha:
        meant.putalpha(alpha)
    return meant


def _written(picture: Image.Image, original: Image.Image) -> CleanPicture:
    # A new picture: whatever the old one carries along, savers look for it in `info` and in its attributes.
    bare = Image.new(picture.mode, picture.size)
    bare.paste(picture)
    is_jpeg = KINDS[original.format or ""] == "image/jpeg"
    # A file of the system: into one of Python's Pillow writes without letting other threads run.
    with tempfile.TemporaryFile() as file:
        if is_jpeg:
            bare.save(file, "JPEG", **_as_fine_as(original))
        else:
            # Level 6 takes three times as long and saves a tenth.
            bare.save(file, "PNG", compress_level=1)
        file.seek(0)
        data = file.read()
    kind = "image/jpeg" if is_jpeg else "image/png"
    return CleanPicture(data, hashlib.sha256(data).hexdigest(), bare.width, bare.height, kind)


def _as_fine_as(original: Any) -> dict[str, Any]:
    """A JPEG's own tables and sampling: writing it again then loses next to nothing."""
    tables = list(original.quantization.values())
    if original.mode != "RGB" and original.mode != "L":
        return {"quality": _UNUSUAL_QUALITY, "subsampling": 0}
    sampling = JpegImagePlugin.get_sampling(original)
    if not 1 <= len(tables) <= 4 or any(max(table) > 255 for table in tables):
        return {"quality": _UNUSUAL_QUALITY, "subsampling": 0}
    return {"qtables": tables, "subsampling": max(0, sampling)}
