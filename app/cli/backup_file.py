"""The file of `darkroom backup`: a tar with what it is in its first entry, and the hash of every file in its last.

Knows the file's form and what belongs into it. Refuses to know how a service is stopped or a snapshot taken.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Self

from pydantic import BaseModel, ValidationError

from app import __version__
from app.contract.redis.keys import RECORD_VERSION

FORMAT = 1
"""Of the file. A higher one is refused."""

FIRST, LAST = "darkroom-backup.json", "sha256.json"

SNAPSHOT = "valkey/dump.rdb"
"""Jobs, events, keys, webhooks and what is owed to them, in the Redis' own format."""

FOLDERS, FILES = ("pictures", "profiles"), ("signing.key", "workers")
"""What else a data folder holds that a start would miss. `workers` names those whose jobs a start hands back. Logs, the
lock and the socket belong to the machine."""

BLOCK = 1 << 20
LONGEST_TEXT = 1 << 20
"""Bytes of the first entry; and of the last one, beside what the hashes of the files take."""


class BackupError(Exception):
    """Nothing was written or restored. One sentence with the remedy."""


class Description(BaseModel):
    """What the first entry says."""

    format: int = FORMAT
    darkroom: str = __version__
    record_version: int = RECORD_VERSION
    made_at: datetime

    @classmethod
    def of_now(cls) -> Description:
        return cls(made_at=datetime.now(UTC).replace(microsecond=0))

    def require_known(self) -> None:
        """Raises BackupError for what a newer version made: this one would leave out what it does not know."""
        newer = self.format > FORMAT or self.record_version > RECORD_VERSION
        if newer or _numbers(self.darkroom) > _numbers(__version__):
            raise BackupError(
                f"it was made by darkroom {self.darkroom}, this is {__version__}: upgrade, then restore it"
            )


class BackupWriter:
    """Writes such a file, entry by entry; the hashes follow when the context ends well."""

    def __init__(self, sink: IO[bytes]) -> None:
        self.sums: dict[str, str] = {}
        self.size = 0
        self._tar = tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._add_text(FIRST, Description.of_now().model_dump_json())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self._add_text(LAST, json.dumps(self.sums))
            self._tar.close()

    def add(self, name: str, source: IO[bytes]) -> None:
        """An open file, under this name. Files of a data folder are written whole and do not change."""
        state = os.fstat(source.fileno())
        reader = _Hashing(source)
        self._tar.addfile(_entry(name, state.st_size, state.st_mtime), reader)
        self.sums[name] = reader.hexdigest()
        self.size += state.st_size

    def _add_text(self, name: str, text: str) -> None:
        data = text.encode()
        self._tar.addfile(_entry(name, len(data), datetime.now(UTC).timestamp()), io.BytesIO(data))


def state_of(data: Path) -> Iterator[tuple[str, Path]]:
    """Names and places of the files that belong into a backup, but for the snapshot. Half-written ones are left out.

    Raises BackupError for a folder that cannot be read, OSError for a file.
    """
    for name in FILES:
        if _is_file(data / name):
            yield name, data / name
    for folder in FOLDERS:
        for place, _, names in os.walk(data / folder, onerror=_refuse_unreadable):
            for name in sorted(names):
                path = Path(place, name)
                if not (name.startswith(".") and name.endswith(".tmp")) and _is_file(path):
                    yield path.relative_to(data).as_posix(), path


def _refuse_unreadable(error: OSError) -> None:
    # What was removed meanwhile is no longer meant.
    if not isinstance(error, FileNotFoundError):
        raise BackupError(f"{error.filename} cannot be read ({error.strerror})") from error


def _is_file(path: Path) -> bool:
    """Whether it is there and no link. pathlib's own word is False as well for what may not be looked at."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def extract(file: Path, into: Path) -> Description:
    """Put the files of a backup into an empty folder, for this user alone.

    Raises BackupError for what is no backup, is damaged, cut short or a newer version's, OSError.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            return _extract(archive, into)
    except (tarfile.TarError, ValidationError, ValueError, EOFError) as error:
        raise BackupError(f"{file} is no backup of darkroom's, or damaged") from error


def _extract(archive: tarfile.TarFile, into: Path) -> Description:
    first = archive.next()
    if first is None or first.name != FIRST:
        raise BackupError("it is no backup of darkroom's: `darkroom backup` makes them")
    description = Description.model_validate_json(_text(archive, first))
    description.require_known()
    found: dict[str, str] = {}
    for entry in islice(archive, 1, None):
        if entry.name == LAST:
            # As many files as its writer has found: what was written can be read.
            if json.loads(_text(archive, entry, more=len(json.dumps(found)))) != found:
                raise BackupError("it is damaged: not every file in it has the hash that it had")
            if SNAPSHOT not in found:
                raise BackupError("it is no backup of darkroom's: there is no snapshot of jobs in it")
            return description
        if entry.name in found:
            raise BackupError(f"it is damaged: {entry.name} is in it twice")
        found[entry.name] = _put(archive, entry, into)
    raise BackupError("it is cut short: its last part is missing")


def _put(archive: tarfile.TarFile, entry: tarfile.TarInfo, into: Path) -> str:
    """One file, and its hash. No links, no devices, nothing outside: names are those that a backup has."""
    path = PurePosixPath(entry.name)
    ours = entry.name in (*FILES, SNAPSHOT) or (path.parts[:1] and path.parts[0] in FOLDERS and len(path.parts) > 1)
    if not ours or ".." in path.parts or path.is_absolute() or not entry.isreg():
        raise BackupError(f"it is no backup of darkroom's: {entry.name!r} does not belong into one")
    source, place = archive.extractfile(entry), into / path
    assert source is not None
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    reader = _Hashing(source)
    with os.fdopen(descriptor, "wb") as sink:
        while block := reader.read(BLOCK):
            sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
    # It is the Last-Modified of a picture.
    os.utime(place, (entry.mtime, entry.mtime))
    return reader.hexdigest()


class _Hashing:
    """A file that is hashed while it is read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.hexdigest = self._hash.hexdigest

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size)
        self._hash.update(block)
        return block


def _entry(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, int(mtime), 0o600
    return entry


def _text(archive: tarfile.TarFile, entry: tarfile.TarInfo, *, more: int = 0) -> bytes:
    source = archive.extractfile(entry) if entry.isreg() and entry.size <= LONGEST_TEXT + more else None
    if source is None:
        raise BackupError(f"it is no backup of darkroom's: {entry.name} is no text")
    return source.read()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
