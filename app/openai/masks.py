"""A mask as OpenAI's clients send it becomes one as it is read here: white is repainted.

Knows Pillow and both readings. For a process that decodes pictures.
"""

from __future__ import annotations

import io

from app.pictures.clean_picture import CleanPicture, UnfitPicture

_NOTHING = (
    "has nothing transparent, and what is transparent is repainted (white for that is mask_image of POST /v1/jobs)"
)


def as_read_here(data: bytes) -> CleanPicture:
    """A mask whose transparent part is repainted, the more the less opaque it is. Raises UnfitPicture,
    also for one without anything transparent: nothing would be repainted."""
    # A gateway loads no Pillow.
    from PIL import Image, ImageOps

    from app.pictures.cleaning import clean

    with Image.open(io.BytesIO(clean(data).data)) as image:
        if image.mode != "RGBA" or image.getchannel("A").getextrema() == (255, 255):
            raise UnfitPicture("not_transparent", _NOTHING)
        mask = ImageOps.invert(image.getchannel("A"))
    file = io.BytesIO()
    mask.save(file, "PNG", compress_level=1)
    return clean(file.getvalue())
