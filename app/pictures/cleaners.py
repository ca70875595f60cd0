"""Processes in which pictures of strangers are decoded, one at a time in each: started when needed, kept for the next.

In a thread a decoder shares the interpreter with everybody's polls, and one that crashes takes them with it. Knows
processes and what travels between. Refuses to know what is done with a picture there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

from app.pictures.clean_picture import CleanPicture

Made = TypeVar("Made")

NICENESS: Final = 10
"""Whoever polls or draws goes first; a tenth of a busy core is left, so that uploads come to an end."""

ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP")
"""What these processes are given of ours: no keys, which a decoder that was taken over could read."""

END_SECONDS: Final = 5.0


def cleaned(data: bytes, declared: str | None = None) -> CleanPicture:
    """What app/pictures/cleaning.py makes of the file: work for one of the processes. Raises UnfitPicture."""
    # A gateway loads no Pillow.
    from app.pictures.cleaning import clean

    return clean(data, declared=declared)


class CleanerDied(Exception):
    """The process ended before it answered: killed for its memory, or the decoder crashed."""


class Cleaners:
    """As many processes as `run` is called at once; the caller bounds that."""

    def __init__(self) -> None:
        self._idle: list[_Cleaner] = []
        self._lock = threading.Lock()
        self._closed = False

    def run(self, work: Callable[..., Made], *args: Any) -> Made:
        """`work(*args)` in one of them; all of it can be pickled. For a thread: waits until it is over.

        Raises what `work` does, and CleanerDied.
        """
        with self._lock:
            cleaner = self._idle.pop() if self._idle else None
        # One that died while nobody needed it is nobody's fault.
        if cleaner is None or not cleaner.is_alive:
            cleaner = _Cleaner()
        try:
            answer = cleaner.ask(work, args)
        except BaseException:
            cleaner.end()
            raise
        with self._lock:
            if keep := not self._closed:
                self._idle.append(cleaner)
        if not keep:
            cleaner.end()
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[no-any-return]

    @property
    def pids(self) -> list[int]:
        """Of those that wait for work."""
        with self._lock:
            return [cleaner.pid for cleaner in self._idle]

    def close(self) -> None:
        """End those that wait. One that works ends when it is done."""
        with self._lock:
            self._closed, idle = True, self._idle
            self._idle = []
        for cleaner in idle:
            cleaner.end()


class _Cleaner:
    """One process, and the end of a socket on which it is asked. It ends when that is closed, however we end."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            self._connection.send((work, args))
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise CleanerDied(f"the process ended with {self._process.poll()}") from error

    def end(self) -> None:
        self._connection.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(connection: Connection) -> None:
    """Do what is asked on it, until its other end is closed."""
    # A Ctrl-C on the terminal is for the gateway, which ends us when what it has begun is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    while True:
        try:
            work, args = connection.recv()
            connection.send(_done(work, args))
        except (EOFError, OSError):
            return


def _done(work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return work(*args)
    except Exception as error:
        return error


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
