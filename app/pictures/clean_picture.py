"""What comes of a picture that somebody sent: a file with nothing but pixels, or the reason why there is none.

Apart from cleaning.py, so that a gateway loads no Pillow before somebody sends it a picture.
"""

from __future__ import annotations

from dataclasses import dataclass


class UnfitPicture(Exception):
    """The picture cannot be taken. `code` is a word for programs, `detail` a sentence for a person."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class CleanPicture:
    """A file with nothing but pixels: a JPEG of what came as one, else a PNG. L, RGB or RGBA, 8 bits, sRGB."""

    data: bytes
    sha256: str
    width: int
    height: int
    content_type: str
