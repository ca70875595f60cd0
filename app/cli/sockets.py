"""Where the embedded server's socket lies: beside its files, or in a folder of the temporary directory, made for it.

Knows paths. Refuses to know who listens. Not XDG_RUNTIME_DIR: that is removed when its user logs out, and a service
that runs on in a tmux would be cut off.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path

from app.cli.private import is_private, write_whole

LONGEST_SOCKET_PATH = 100
"""The kernel takes 108 bytes on Linux, 104 on macOS."""

SHORT = "/tmp"
"""Where there is room for a socket although TMPDIR is long."""

NAME = "valkey.sock"
NOTE = "socket"
"""File of the server's folder that names its socket: another process of another environment finds the same one."""


class NoPlace(Exception):
    """There is no path for a socket. One sentence with the remedy."""


def find_socket(folder: Path) -> Path:
    """Where the server of this folder listens, if it runs. A place that others could have made is not believed."""
    beside = folder.resolve() / NAME
    if _fits(beside):
        return beside
    for place in (_noted(folder), _former(beside)):
        if place is not None and _fits(place) and is_private(place.parent, like=folder):
            return place
    return beside


def make_socket(folder: Path) -> Path:
    """Where the server of this folder is to listen: the place that it had, else a new one. Raises NoPlace, OSError."""
    found = find_socket(folder)
    if _fits(found):
        return found
    # TMPDIR of a batch system, or of a user on macOS, may be long too.
    temporary = dict.fromkeys((tempfile.gettempdir(), SHORT))
    for above in temporary:
        place = _made_in(above)
        if place is not None:
            write_whole(folder / NOTE, str(place))
            return place
    places = " nor ".join(map(str, (folder, *temporary)))
    raise NoPlace(f"a socket fits neither in {places} (long, with spaces, or not writable): choose another --data")


def _made_in(above: str) -> Path | None:
    """A place in a new folder there, unless that is too long, or cannot be made."""
    try:
        # Nobody can know its name beforehand, and it is made with mode 0700 or not at all.
        place = Path(tempfile.mkdtemp(prefix="darkroom-", dir=above)) / NAME
    except OSError:
        return None
    if _fits(place):
        return place
    place.parent.rmdir()
    return None


def remove_socket(socket: Path, folder: Path) -> None:
    """After the server has ended, together with the folder that was made for it."""
    socket.unlink(missing_ok=True)
    if socket.parent != folder.resolve():
        with suppress(OSError):
            socket.parent.rmdir()


def _fits(path: Path) -> bool:
    # CLIENT INFO is words with spaces between them, the path is one of them, and redis-py takes it apart.
    return len(str(path).encode()) <= LONGEST_SOCKET_PATH and len(str(path).split()) == 1


def _noted(folder: Path) -> Path | None:
    try:
        return Path((folder / NOTE).read_text().strip())
    except (OSError, ValueError):
        return None


def _former(beside: Path) -> Path:
    """Names could be guessed once. A server that was left behind at one must not get a second beside it."""
    digest = hashlib.sha256(str(beside).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"darkroom-{digest}" / NAME
