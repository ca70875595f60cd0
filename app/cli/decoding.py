"""Pictures of strangers, decoded: no other formats than ours, and none larger than any picture of ours.

A picture of some kilobytes may be of gigapixels, so its header is asked before a pixel is.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LARGEST_PIXELS = 4096 * 4096
"""As RGBA, while it is decoded, 64 MiB."""


_PNG = b"\x89PNG\r\n\x1a\n"


class Undecodable(Exception):
    """No picture, a broken one or too large a one. `str()` is the reason."""


def is_small_png(data: bytes) -> bool:
    """Whether it begins as a PNG of a size that may be ours. Asks no library. PNG specification, 11.2.2."""
    if len(data) < 24 or not data.startswith(_PNG):
        return False
    width, height = struct.unpack_from(">II", data, 16)
    return bool(0 < width * height <= LARGEST_PIXELS)


def decoded(data: bytes) -> Image.Image:
    """The picture in RGB. Raises Undecodable, and ModuleNotFoundError without pillow."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    raise Undecodable(f"{image.width}x{image.height} pixels are more than {LARGEST_PIXELS}")
                return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Undecodable(str(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Undecodable(f"it has more than {LARGEST_PIXELS} pixels") from error
