"""Folders and files that belong to one user: made so under any umask, checked where they are found, written whole.

Knows owners and modes. Refuses to know what lies in them.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path

UMASK = 0o077
"""What a process of the service makes, pictures, logs, AOF and profiles, is nobody else's to read or to write."""

OTHERS_READ = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(OSError):
    """A folder is there and belongs to somebody else. `strerror` is the reason."""


def keep_private() -> None:
    """From now on what this process and its children make is theirs alone."""
    os.umask(UMASK)


def own_folder(folder: Path) -> None:
    """Make the folder that a user has named, or take it as it is. Raises NotOurs, and OSError if it cannot be made.

    A folder of our own in which others may write is closed to them: they could put files of theirs in place of ours.
    One of root's is left as it is, with a word: volumes of containers are such.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    _require_owner(folder, state, also=0)
    if not state.st_mode & OTHERS_WRITE:
        return
    if state.st_uid == os.geteuid() and not state.st_mode & stat.S_ISVTX:
        folder.chmod(stat.S_IMODE(state.st_mode) & ~OTHERS_WRITE)
        print(f"darkroom: others could write in {folder}, which is closed to them now", file=sys.stderr)
    else:
        print(f"darkroom: others may write in {folder}; better choose one that is yours with --data", file=sys.stderr)


def private_folder(folder: Path) -> None:
    """Make a folder that only this user may look into. Raises NotOurs, and OSError if it cannot be made."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    _require_owner(folder, state)
    if state.st_mode & OTHERS_READ:
        folder.chmod(0o700)


def is_private(folder: Path, *, like: Path) -> bool:
    """Whether it is a folder, no link, of ours or of the owner of `like`, and others cannot look into it."""
    try:
        state, owners = folder.lstat(), {os.geteuid(), like.stat().st_uid}
    except OSError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid in owners and not state.st_mode & OTHERS_READ


def write_whole(path: Path, text: str) -> None:
    """Write beside the final name, sync, rename: the file is there with all it holds, or as it was before."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _require_owner(folder: Path, state: os.stat_result, *, also: int | None = None) -> None:
    # Root may work in anybody's folder: it is told to by whoever gave it that name.
    if os.geteuid() != 0 and state.st_uid not in (os.geteuid(), also):
        raise NotOurs(1, "it belongs to another user", str(folder))
