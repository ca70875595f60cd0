"""What can go wrong with a picture or a link: one tree, told from what a disk, a bucket or a reader of a link did.

PictureStoreError
  PictureMissing
  SignatureInvalid
  SignatureExpired
  RangeNotSatisfiable
  StoreUnavailable
    StoreDenied
      StoreTaken
    StoreFull
"""

from __future__ import annotations

from app.contract.objects.faults import Fault, diagnose


class PictureStoreError(Exception):
    """Base of these errors. `str()` is a sentence for the operator; it may name a folder or a bucket."""


class PictureMissing(PictureStoreError):
    """No such picture: never stored, deleted, or a name that cannot be one."""


class SignatureInvalid(PictureStoreError):
    """The link was not made here, or was changed."""


class SignatureExpired(PictureStoreError):
    """The link was made here and its time is over."""


class RangeNotSatisfiable(PictureStoreError):
    """The range begins behind the last byte. `size` is the whole picture's, for `Content-Range: bytes */size`."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the picture has {size} bytes")
        self.size = size


class StoreUnavailable(PictureStoreError):
    """The store does not answer now; the same call may work later."""


class StoreDenied(StoreUnavailable):
    """The store refuses us, and will until somebody changes a setting."""


class StoreTaken(StoreDenied):
    """The store is another cell's."""


class StoreFull(StoreUnavailable):
    """The store takes nothing more."""


def translated(error: Exception, label: str) -> PictureStoreError:
    """The error that a failed call to the store `label` stands for."""
    kinds = {Fault.MISSING: PictureMissing, Fault.DENIED: StoreDenied, Fault.FULL: StoreFull}
    fault, why = diagnose(error, label)
    return kinds.get(fault, StoreUnavailable)(why)
