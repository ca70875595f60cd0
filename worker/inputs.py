"""Pictures that a job names, from the store to pixels: read, compared with their hash, and decoded.

Knows the store and files of pictures. Refuses to know what a model makes of them, and whose turn it is: whoever calls
has a thread for it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
import structlog
from PIL import Image

from app.contract.messages.inputs import InputPicture
from app.contract.objects.names import input_key
from app.contract.redis.ownership import Claim
from worker.errors import InputMissing
from worker.storage import ObjectStore

log = structlog.get_logger()

FORMATS = ("PNG", "JPEG", "WEBP")
"""What the gateway lets in."""

GONE = "A picture that this job needs is no longer in the picture store; send it again, and then the job."
CHANGED = "A picture that this job needs is not the file that was stored; send it again, and then the job."


class Inputs:
    """Those of one store. Safe to share between threads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def fetch(self, claim: Claim, *, keep_trying: Callable[[], bool]) -> dict[str, np.ndarray]:
        """Every picture that the job names, uint8 [H, W, 3 or 4] by its sha256.

        Waits for a store that is away, as an upload does. Raises InputMissing, and what ObjectStore.get raises.
        """
        named = {picture.sha256: picture for picture in claim.pictures}
        return {sha256: self._one(claim, picture, keep_trying=keep_trying) for sha256, picture in named.items()}

    def _one(self, claim: Claim, picture: InputPicture, *, keep_trying: Callable[[], bool]) -> np.ndarray:
        data = self._store.get(input_key(claim.tenant, picture.sha256), keep_trying=keep_trying)
        if data is None:
            raise InputMissing(GONE)
        try:
            return pixels(data, picture)
        except Exception as error:
            log.error("an input is not what was stored", job_id=claim.id, sha256=picture.sha256, reason=repr(error))
            raise InputMissing(CHANGED) from error


def pixels(data: bytes, picture: InputPicture) -> np.ndarray:
    """The file's, uint8 [H, W, 3], or 4 where it has transparency. Raises ValueError for another file than that
    picture's, and what Pillow raises for a damaged one."""
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise ValueError("its hash is another")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        # Before any pixel is decoded: the gateway has measured these.
        if image.size != (picture.width, picture.height):
            raise ValueError(f"it is {image.size[0]} x {image.size[1]}")
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return np.asarray(image.convert(mode))
