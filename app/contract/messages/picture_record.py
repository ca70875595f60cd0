"""Pictures of strangers, opened by Pillow, and the record inside those that a worker drew.

Knows the formats that are ours, and where in each the record stands. Opening reads what stands before the pixels.
Refuses to know how a record is written: that is the worker's.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from app.contract.messages.picture_bytes import PictureBytes, TooManyParts

if TYPE_CHECKING:
    from PIL import Image

KEYWORD = "darkroom"
"""Of the PNG text chunk that holds the record as JSON."""

XMP_NAMESPACE = "urn:darkroom:1.0/"
"""Of the element `record` in a JPEG's or WebP's XMP packet."""

MAX_RECORD_BYTES = 60_000
"""A JPEG holds an EXIF or XMP note in one segment of 64 KiB, so no record may be longer, whatever the format."""

MAX_FILE_BYTES = 64 * 1024 * 1024
"""What no picture of ours can reach."""

MAX_PIXELS = 4096 * 4096
"""Of any picture of ours. As RGBA, while it is decoded, 64 MiB."""

FORMATS = ("PNG", "JPEG", "WEBP")


class PictureError(Exception):
    """These bytes are no picture of ours. `detail` is a sentence for a person."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RecordMissing(PictureError):
    """A picture, but without our record in it."""


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """The picture, its header read and no pixel. Raises PictureError for bytes that are no PNG, JPEG or WebP, that are
    broken, here or in what is done with the picture, or that are larger than a picture of ours can be.
    """
    from PIL import Image

    if len(data) > MAX_FILE_BYTES:
        raise PictureError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of many pixels, and of what is odd beside them.
            with Image.open(PictureBytes(data), formats=FORMATS) as image:
                yield image
    except Image.UnidentifiedImageError as error:
        raise PictureError("these bytes are no readable PNG, JPEG or WebP picture") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"it has more than {MAX_PIXELS} pixels") from error
    except TooManyParts as error:
        raise PictureError("it is cut into more small parts than any picture of ours") from error
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error) as error:
        raise PictureError(f"the picture is broken: {str(error)[:100]}") from error


def read_record(data: bytes) -> dict[str, Any]:
    """The record that a worker put into this file.

    Raises RecordMissing for a picture without one, and PictureError for a record that was changed and as `opened` does.
    """
    with opened(data) as image:
        note = _in_png(image) if image.format == "PNG" else _in_xmp(image.info.get("xmp"))
    if note is None:
        raise RecordMissing(
            "the picture carries no darkroom record: made elsewhere, or saved again without its metadata"
        )
    return _parsed(note)


def _parsed(note: str) -> dict[str, Any]:
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


def _in_png(image: Any) -> str | None:
    """Our iTXt chunk, or the tEXt chunk that another program may have made of it."""
    note: str | None = image.info.get(KEYWORD)
    if note is None and image.width * image.height <= MAX_PIXELS:
        # Other programs may have put it behind the pixels, and those have to be decoded to get there.
        note = image.text.get(KEYWORD)
    return note


def _in_xmp(xmp: bytes | None) -> str | None:
    if xmp is None:
        return None
    # No XMP packet has a document type, and without one there are no entities to blow up.
    if len(xmp) > 2 * MAX_RECORD_BYTES or b"<!" in xmp:
        raise PictureError("the picture's XMP is none that we wrote: too long, or with declarations")
    try:
        root = ElementTree.fromstring(xmp)
    except ElementTree.ParseError as error:
        raise PictureError("the picture's XMP is not XML: the file was changed after it was made") from error
    name = f"{{{XMP_NAMESPACE}}}record"
    # Other programs may rewrite the element as an attribute; both mean the same in RDF.
    for element in root.iter():
        note = element.text if element.tag == name else element.get(name)
        if note is not None:
            return note
    return None
