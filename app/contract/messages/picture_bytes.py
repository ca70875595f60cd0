"""A picture's file as Pillow reads it: so often, and not more.

Knows how often Pillow reads the files that programs write. Refuses to know what a part says.
"""

from __future__ import annotations

import io
from typing import Final

MAX_READS: Final = 10_000
"""Of one file. Pillow walks through chunks, segments and padding in Python, and puts the parts of a JPEG's EXIF
together one by one: a file of 20 MB with nothing but those takes minutes and a gigabyte."""

BYTES_A_READ: Final = 512
"""A PNG may have a read more for each of so many bytes: its pixels come in chunks, of 4 KiB from ffmpeg and of 8 KiB
from libpng, and each takes three reads. A file of 20 MiB with nothing but tiny ones is read in a second."""

_PNG: Final = b"\x89PNG"


class TooManyParts(Exception):
    """The file is cut into more parts than a program makes of one."""


class PictureBytes(io.BytesIO):
    """For `Image.open`. `read` raises TooManyParts when it is called too often."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_READS + (len(data) // BYTES_A_READ if data.startswith(_PNG) else 0)

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise TooManyParts
        return super().read(size)
