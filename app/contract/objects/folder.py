"""A folder that objects lie in: files that only we may read, written whole, and no link inside it followed.

Raises OSError, and refuses to know what a fault means: faults.py does.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)

_READ = os.O_RDONLY | os.O_CLOEXEC
_NOT_OURS = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENOENT)


class Folder:
    """A directory here: files 0600, directories 0700, written whole, no link inside it followed. Raises OSError."""

    can_sign = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.label = f"the folder {root}"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Writes beside the final name, syncs, renames. The extension says the content type already."""
        *parents, name = _parts(key)
        with self._directory(parents, create=True) as folder:
            _write_whole(folder, name, data)

    def create(self, key: str, data: bytes, content_type: str) -> bool:
        """The same where no such object is; else False, and nothing is changed."""
        *parents, name = _parts(key)
        with self._directory(parents, create=True) as folder:
            return _write_whole(folder, name, data, only_new=True)

    def open(self, key: str) -> tuple[BinaryIO, int, int]:
        """The file, its length in bytes and its mtime in ns. FileNotFoundError also for a link or a device."""
        *parents, name = _parts(key)
        try:
            with self._directory(parents) as folder:
                # O_NONBLOCK: opening a FIFO somebody left there must not hang a thread.
                descriptor = os.open(name, _READ | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            state = os.fstat(descriptor)
            if stat.S_ISREG(state.st_mode):
                return os.fdopen(descriptor, "rb", buffering=0), state.st_size, state.st_mtime_ns
            os.close(descriptor)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
        raise FileNotFoundError(errno.ENOENT, "no such object", key)

    def read(self, key: str) -> bytes:
        file, _, _ = self.open(key)
        with file:
            return file.read()

    def delete(self, key: str) -> None:
        """Removes one object, with what killed writers have left of it. One that is not there is no error."""
        *parents, name = _parts(key)
        with suppress(FileNotFoundError), self._directory(parents) as folder:
            for found in os.listdir(folder):
                if found == name or found.startswith(f".{name}."):
                    with suppress(FileNotFoundError):
                        os.unlink(found, dir_fd=folder)

    def delete_prefix(self, prefix: str) -> int:
        """Removes everything under `prefix`, half-written files too. How many files went."""
        *parents, name = _parts(prefix.rstrip("/"))
        try:
            with self._directory(parents) as folder:
                return _remove(folder, name)
        except FileNotFoundError:
            return 0

    def written_at(self, key: str) -> float | None:
        """When the object was written, in seconds since 1970; None if there is none."""
        try:
            file, _, written_ns = self.open(key)
        except FileNotFoundError:
            return None
        file.close()
        return written_ns / 1e9

    def modified(self, folder: str) -> dict[str, float]:
        """The key of each object that lies directly in `folder`, and when it was written, in seconds since 1970."""
        found = {}
        try:
            with self._directory(_parts(folder)) as opened:
                for name in filter(_PART.fullmatch, os.listdir(opened)):
                    with suppress(FileNotFoundError):
                        found[f"{folder}/{name}"] = os.stat(name, dir_fd=opened, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return {}
        return found

    @contextmanager
    def _directory(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        folder = os.open(self.root, _READ | os.O_DIRECTORY)
        try:
            for part in parts:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=folder)
                inner = os.open(part, _READ | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)


def _parts(key: str) -> list[str]:
    if not all(_PART.fullmatch(part) for part in key.split("/")):
        raise ValueError("an object key is made of plain names between single slashes")
    return key.split("/")


def _write_whole(folder: int, name: str, data: bytes, *, only_new: bool = False) -> bool:
    """False if there is one of this name and `only_new` are written."""
    # The leading dot keeps a half-written file out of reach of every valid key.
    temporary = f".{name}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not (only_new and _linked(folder, temporary, name)):
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        os.unlink(temporary, dir_fd=folder)
        return False
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)
    return True


def _linked(folder: int, temporary: str, name: str) -> bool:
    """Gives the file a name that nobody has: a rename would write over what came in between. False where there are no
    hard links (exFAT, some network file systems), and nobody has it now. Raises FileExistsError."""
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            raise FileExistsError(name) from error
        return False
    os.unlink(temporary, dir_fd=folder)
    return True


def _remove(parent: int, name: str) -> int:
    """Removes a file, a link (never its target) or a directory with all it holds. How many files went."""
    try:
        folder = os.open(name, _READ | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
        return 1
    removed = 0
    try:
        # Until it is empty: somebody may still write there.
        while names := os.listdir(folder):
            for inner in names:
                with suppress(FileNotFoundError):
                    removed += _remove(folder, inner)
    finally:
        os.close(folder)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)
    return removed
