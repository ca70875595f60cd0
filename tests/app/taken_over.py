"""What a decoder does that was taken over by the picture it decoded: runs in a process of app/pictures/cleaners.py.

Written for `Cleaners.run`, with functools.partial: each is a `clean` that can be pickled.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from pathlib import Path

from app.pictures.clean_picture import CleanPicture


def framed(words: bytes) -> bytes:
    """As multiprocessing's Connection sends them: a length in four bytes, and so many."""
    return struct.pack("!i", len(words)) + words


def say(_: bytes, *, words: bytes, note: Path, forks: bool = False) -> CleanPicture:
    """Write these bytes in the place of an answer, then the pids of all who hold the socket to `note`, and do nothing
    more."""
    os.write(int(sys.argv[1]), words)
    child = os.fork() if forks else None
    if child != 0:
        whole = note.with_suffix(".part")
        whole.write_text(" ".join(str(pid) for pid in (os.getpid(), child) if pid))
        whole.rename(note)
    while True:
        signal.pause()


def fail(_: bytes) -> CleanPicture:
    """Raise what is our fault and not the picture's."""
    raise ZeroDivisionError("ours")
