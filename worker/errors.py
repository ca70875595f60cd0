"""What can go wrong around a picture, outside the engine.

    CannotStart                  not a job's error     the process ends with a sentence that no restart would change
    WorkerError                  internal
      StorageError               storage-unavailable
        StorageUnavailable       storage-unavailable     no answer before the deadline
        StorageFull              storage-full            no space before the deadline
        StorageDenied            storage-denied          refused; the same call will be refused again
      Abandoned                abandoned               nobody wants the picture any more: lease lost or canceled
      InputMissing             input-missing           a picture that the job needs is gone, or is another file

Each carries a slug for the record and a detail for a person. A detail never holds a prompt, a key or a token, but it
may name a bucket or a folder: it is for the operator.
"""

from __future__ import annotations

from typing import ClassVar


class CannotStart(Exception):
    """A reason that no restart mends. One sentence, with the remedy."""


class WorkerError(Exception):
    """Base of those that end a job. `slug` is stable, `detail` is one sentence with the remedy in it."""

    slug: ClassVar[str] = "internal"
    is_given_back: ClassVar[bool] = False
    """The job does not end: it is tried again later, maybe by another worker."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class StorageError(WorkerError):
    slug = "storage-unavailable"
    is_given_back = True


class StorageUnavailable(StorageError):
    slug = "storage-unavailable"


class StorageFull(StorageError):
    slug = "storage-full"


class StorageDenied(StorageError):
    slug = "storage-denied"
    is_given_back = False


class Abandoned(WorkerError):
    slug = "abandoned"


class InputMissing(WorkerError):
    slug = "input-missing"
