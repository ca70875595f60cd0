"""A mask as the web UI reads it becomes one as it is read here: white is repainted.

Knows Pillow and both readings. For a process that decodes pictures.
"""

from __future__ import annotations

import io

from app.pictures.clean_picture import CleanPicture


def as_read_there(data: bytes, *, inverted: bool) -> CleanPicture:
    """A mask: of one with alpha that is not opaque everywhere, the alpha (`create_binary_mask` in
    modules/processing.py); else its lightness; `inverted` turns black and white round. Raises UnfitPicture."""
    # A gateway loads no Pillow.
    from PIL import Image, ImageOps

    from app.pictures.cleaning import clean

    with Image.open(io.BytesIO(clean(data).data)) as image:
        is_cut_out = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
        mask = image.getchannel("A") if is_cut_out else image.convert("L")
    file = io.BytesIO()
    (ImageOps.invert(mask) if inverted else mask).save(file, "PNG", compress_level=1)
    return clean(file.getvalue())
