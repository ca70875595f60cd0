"""Bytes under a key, for good: checksum, retry with growing pauses, and an honest error at the end.

Knows storage and the clock. Refuses to know whose picture it is: `keep_trying` says whether anybody still wants it.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from obstore.exceptions import BaseError

from app.contract.objects.faults import Fault, diagnose
from app.contract.objects.folder import Folder
from app.contract.objects.names import parse_key, require_input, require_prefix, require_snapshot
from app.contract.objects.store import Bucket, StoreOptions, open_store, probe
from app.contract.objects.thumbnails import put_thumbnail
from worker.errors import Abandoned, StorageDenied, StorageError, StorageFull, StorageUnavailable

log = structlog.get_logger()

Result = TypeVar("Result")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds. Short, because the GPU's seat is free already but a client waits, and a restarted store is soon back."""

DEADLINE = 120.0
"""Seconds an upload may take before its job is handed back."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object that is safely away: its key, hex SHA-256 and length in bytes."""

    key: str
    sha256: str
    bytes: int
    content_type: str


class ObjectStore:
    """The worker's side of the store. Blocking and safe to share between threads; no call holds a lock while it
    waits."""

    def __init__(
        self,
        place: Folder | Bucket,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.place = place
        self._clock = clock
        self._pause = pause
        self._chance = chance
        self._counting = threading.Lock()
        self.stored_bytes = 0
        """Of pictures, and of files beside them, since the start."""

    @classmethod
    def from_url(cls, url: str, options: StoreOptions | None = None) -> ObjectStore:
        """Opens what `open_store` opens. ValueError for another URL, StorageError for a bad folder."""
        try:
            return cls(open_store(url, options))
        except OSError as error:
            raise _final(error, url) from error

    def put(
        self,
        key: str,
        data: bytes,
        content_type: str,
        *,
        deadline: float = DEADLINE,
        keep_trying: Callable[[], bool] = lambda: True,
    ) -> Stored:
        """Stores `data` under an image key, whole or not at all, and returns its SHA-256.

        Transient faults and a full disk are tried again for `deadline` seconds, one request beyond that at most.
        Raises StorageDenied at once, StorageUnavailable or StorageFull at the deadline, Abandoned as soon as
        `keep_trying` says no between two tries, ValueError for a key that is no image key.
        """
        picture = parse_key(key)
        said = log.bind(transfer="upload", job_id=picture.job_id, index=picture.index)
        self._persist(lambda: self.place.put(key, data, content_type), said, deadline, keep_trying)
        with self._counting:
            self.stored_bytes += len(data)
        return Stored(key, hashlib.sha256(data).hexdigest(), len(data), content_type)

    def put_thumbnail(self, data: bytes, *, deadline: float = DEADLINE) -> str:
        """Stores a JPEG under what it hashes to, unless it is there, and says that. Tries as `put` does, and raises the
        same."""
        sha256 = hashlib.sha256(data).hexdigest()
        said = log.bind(transfer="thumbnail")
        self._persist(lambda: put_thumbnail(self.place, sha256, data), said, deadline, lambda: True)
        return sha256

    def put_snapshot(self, key: str, data: bytes, *, deadline: float) -> None:
        """Stores what a running job can go on from. Tries as `put` does, and raises the same."""
        require_snapshot(key)
        put = partial(self.place.put, key, data, "application/octet-stream")
        self._persist(put, log.bind(transfer="snapshot"), deadline, lambda: True)

    def get_snapshot(
        self, key: str, *, deadline: float, keep_trying: Callable[[], bool] = lambda: True
    ) -> bytes | None:
        """What is stored there; None if there is nothing, or the store does not answer in time: a job can start over.
        Raises Abandoned, as `put` does."""
        require_snapshot(key)
        try:
            return self._persist(partial(self._read, key), log.bind(transfer="snapshot"), deadline, keep_trying)
        except StorageError:
            return None

    def get(
        self, key: str, *, deadline: float = DEADLINE, keep_trying: Callable[[], bool] = lambda: True
    ) -> bytes | None:
        """What is stored under the key of a picture that came in; None if nothing is, in a store that is well.

        Tries as long as `put`, and raises the same.
        """
        require_input(key)
        return self._persist(partial(self._read, key), log.bind(transfer="download"), deadline, keep_trying)

    def _read(self, key: str) -> bytes | None:
        try:
            return self.place.read(key)
        except (OSError, BaseError) as error:
            if diagnose(error, self.place.label)[0] is not Fault.MISSING:
                raise
        # A disk that is not mounted has lost nothing: only a store that works says that an object is gone.
        probe(self.place)
        return None

    def _persist(
        self,
        call: Callable[[], Result],
        said: structlog.stdlib.BoundLogger,
        deadline: float,
        keep_trying: Callable[[], bool],
    ) -> Result:
        """What the call returns, once it does. Raises as `put` says."""
        started, tries = self._clock(), 0
        while keep_trying():
            try:
                return call()
            except (OSError, BaseError) as error:
                tries += 1
                fault, why = diagnose(error, self.place.label)
                spent = self._clock() - started
                pause = self._next_pause(tries)
                said.warning("transfer failed", tries=tries, reason=why)
                if fault is Fault.DENIED or spent + pause > deadline:
                    raise _final(error, self.place.label) from error
                self._pause(pause)
        raise Abandoned(f"a transfer was given up after {tries} failed tries: its job is no longer ours")

    def delete_prefix(self, prefix: str) -> int:
        """Deletes all pictures of a job or of one attempt, temporary files too; returns how many. StorageError."""
        require_prefix(prefix)
        try:
            return self.place.delete_prefix(prefix)
        except (OSError, BaseError) as error:
            raise _final(error, self.place.label) from error

    def check(self) -> None:
        """Writes, reads, lists and deletes a probe. Raises a StorageError whose one sentence names the remedy."""
        try:
            probe(self.place)
        except (OSError, BaseError) as error:
            raise _final(error, self.place.label) from error

    def _next_pause(self, tries: int) -> float:
        # Between half and all of the doubled pause, so that workers that fell together do not return together.
        longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(tries - 1, 16))
        return longest * (0.5 + self._chance() / 2)


def _final(error: Exception, label: str) -> StorageError:
    kinds = {Fault.DENIED: StorageDenied, Fault.FULL: StorageFull}
    fault, why = diagnose(error, label)
    return kinds.get(fault, StorageUnavailable)(why)
