"""Pictures of strangers, decoded: none larger than any picture of ours.

A picture of some kilobytes may be of gigapixels, so its header is asked before a pixel is.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from app.contract.messages.picture_record import MAX_PIXELS, PictureError, opened

if TYPE_CHECKING:
    from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"


def is_small_png(data: bytes) -> bool:
    """Whether it begins as a PNG of a size that may be ours. Asks no library. PNG specification, 11.2.2."""
    if len(data) < 24 or not data.startswith(_PNG):
        return False
    width, height = struct.unpack_from(">II", data, 16)
    return bool(0 < width * height <= MAX_PIXELS)


def decoded(data: bytes) -> Image.Image:
    """The picture in RGB. Raises PictureError."""
    with opened(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
        return image.convert("RGB")
