"""Standard output and standard error, so that whatever a command writes arrives whole, or is known not to.

Knows nothing of what it is.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from app.cli.exits import FAILED


def write_whole() -> None:
    """Give both streams the buffer back that PYTHONUNBUFFERED, as images of containers set it, takes away.

    Without one nobody writes the rest where a signal has cut a write short (Ctrl-Z and `fg`, a window of another size):
    of two megabytes to a terminal whose writer was stopped again and again 23 % were lost. Lines still go out at once.

    What is closed leads nowhere, before another file gets its number. Standard error never fails: a log that cannot be
    written, because the disk is full or its reader has gone, ends no service, and there is nobody to be told.
    """
    _fill_the_numbers()
    sys.stdout = _buffered(sys.stdout or _open(1))
    sys.stderr = _Unfailing.of(sys.stderr or _open(2))


@contextmanager
def output_counts() -> Iterator[None]:
    """What a command was asked for goes to standard output. Where that takes no more, stderr says so, and the command
    ends with FAILED; without a word where the reader has gone (`| head`)."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if not _is_of_output():
            raise
        lead_output_nowhere()
        if not isinstance(error, BrokenPipeError):
            print(f"darkroom: the output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(FAILED)


def lead_output_nowhere() -> None:
    """Or the interpreter complains at its end, as the note on SIGPIPE in Python's documentation has it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def never_fail_output() -> None:
    """For a service: nobody who reads what it says decides how long it lives."""
    sys.stdout = _Unfailing.of(sys.stdout)


class _Unfailing(io.TextIOWrapper):
    """Drops what cannot be written."""

    @classmethod
    def of(cls, stream: TextIO) -> TextIO:
        """The same stream, without that. One in memory stays as it is: it does not fail."""
        try:
            number = stream.fileno()
        except io.UnsupportedOperation:
            return stream
        stream.flush()
        file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        return cls(file, encoding=stream.encoding, errors=stream.errors, line_buffering=True)

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _fill_the_numbers() -> None:
    """For the programs that this one starts as well: Python closes what it opens before them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _open(number: int) -> TextIO:
    return open(number, "w", closefd=False)


def _is_of_output() -> bool:
    """What could not be written is still in the buffer, and cannot be written again."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _buffered(stream: TextIO) -> TextIO:
    if not isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        return stream
    return open(stream.fileno(), "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False)
