"""The record inside a picture: what it was drawn from, and where in a PNG, JPEG or WebP file that stands.

Walks the file's outer structure only: nothing is decoded, so no picture is too large to ask, and no library is needed.
Refuses to know how a record is written: that is the worker's.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

KEYWORD = "darkroom"
"""Of the PNG text chunk that holds the record as JSON."""

XMP_NAMESPACE = "urn:darkroom:1.0/"
"""Of the element `record` in a JPEG's or WebP's XMP packet."""

MAX_RECORD_BYTES = 60_000
"""A JPEG holds an EXIF or XMP note in one segment of 64 KiB, so no record may be longer, whatever the format."""

MAX_FILE_BYTES = 64 * 1024 * 1024

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"


class PictureError(Exception):
    """These bytes are no picture of ours. `detail` is a sentence for a person."""

    slug = "picture-unreadable"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RecordMissing(PictureError):
    """A picture, but without our record in it."""

    slug = "record-missing"


def read_record(data: bytes) -> dict[str, Any]:
    """The record that a worker put into this file.

    Raises RecordMissing for a picture without one, PictureError for bytes that are no PNG, JPEG or WebP, that are
    broken, or that are larger than a picture of ours can be.
    """
    if len(data) > MAX_FILE_BYTES:
        raise PictureError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        note = _note(data)
    except (struct.error, IndexError, ValueError, zlib.error) as error:
        raise PictureError("these bytes are no readable PNG, JPEG or WebP picture") from error
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


def _note(data: bytes) -> str | None:
    if data.startswith(_PNG):
        notes = (_png_text(kind, body) for kind, body in _png_chunks(data))
    elif data.startswith(_JPEG):
        notes = (_record_in_xmp(body) for body in _jpeg_xmp(data))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        notes = (_record_in_xmp(body) for body in _webp_xmp(data))
    else:
        raise PictureError("these bytes are no PNG, JPEG or WebP picture")
    return next((note for note in notes if note is not None), None)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """PNG specification, 5.3: length, type, body and a checksum, which only matters to those who decode."""
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, _exactly(data, at + 8, length)
        at += 12 + length


def _png_text(kind: bytes, body: bytes) -> str | None:
    """PNG specification, 11.3.3: our iTXt chunk, or the tEXt chunk that another program may have made of it."""
    if kind not in (b"iTXt", b"tEXt") or not body.startswith(KEYWORD.encode() + b"\0"):
        return None
    rest = body[len(KEYWORD) + 1 :]
    if kind == b"tEXt":
        return rest.decode("latin-1")
    is_compressed, text = rest[0], rest[2:].split(b"\0", 2)[2]
    if is_compressed:
        # Bounded: a few kilobytes may inflate to gigabytes.
        text = zlib.decompressobj().decompress(text, 4 * MAX_RECORD_BYTES)
    return text.decode()


def _jpeg_xmp(data: bytes) -> Iterator[bytes]:
    """ITU T.81, B.1.1: segments up to the first scan; XMP stands in an APP1 of its own (XMP specification, part 3)."""
    at = 2
    while True:
        mark, marker = struct.unpack_from("2B", data, at)
        if mark != 0xFF:
            raise ValueError("no marker where one must be")
        if marker in (0xD9, 0xDA):
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = _exactly(data, at + 4, length - 2)
        if marker == 0xE1 and body.startswith(_XMP_SEGMENT):
            yield body[len(_XMP_SEGMENT) :]
        at += 2 + length


def _webp_xmp(data: bytes) -> Iterator[bytes]:
    """RFC 9649, 2.3: chunks of a type, a length and a body that is padded to an even length."""
    at = 12
    while at < len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = _exactly(data, at + 8, length)
        if kind == b"XMP ":
            yield body
        at += 8 + length + length % 2


def _exactly(data: bytes, at: int, length: int) -> bytes:
    if length < 0 or at + length > len(data):
        raise ValueError("the file ends too early")
    return data[at : at + length]


def _record_in_xmp(xmp: bytes) -> str | None:
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
