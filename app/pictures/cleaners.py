"""Processes in which pictures of strangers are decoded, one at a time in each: started when needed, kept for the next.

In a thread a decoder shares the interpreter with everybody's polls, and one that crashes takes them with it. Knows
processes and what travels between. Refuses to know what is done with a picture there.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from app.pictures.clean_picture import CleanPicture, UnfitPicture

Clean = Callable[[bytes], CleanPicture]
"""Makes what is kept of a file that came. Can be pickled, and raises UnfitPicture."""

KINDS: Final = ("image/png", "image/jpeg")
"""Of cleaned pictures."""

NICENESS: Final = 10
"""Whoever polls or draws goes first; a tenth of a busy core is left, so that uploads come to an end."""

SESSION: Final = Path("/proc/self/autogroup")
"""Where Linux schedules sessions against each other (sched(7), autogroup), the niceness of our session among them."""

SESSION_TRIES: Final = 20

ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP")
"""What these processes are given of ours: no keys. They run as the same user, so one that was taken over reads what
else this user may: files and other processes, but not the gateway's memory (app/cli/own_memory.py)."""

END_SECONDS: Final = 5.0

LONGEST_SECONDS: Final = 120.0
"""For one file, from its first byte in to the last one out. One of 12 megapixels takes a fraction of a second
(docs/benchmarks.md)."""

MOST_SAID: Final = 64 * 1024
MOST_BYTES: Final = 512 * 1024 * 1024
"""Of a cleaned file, which may be larger than the one that came: a PNG of what did not compress."""


def cleaned(data: bytes, declared: str | None = None) -> CleanPicture:
    """What app/pictures/cleaning.py makes of the file: work for one of the processes. Raises UnfitPicture."""
    # A gateway loads no Pillow.
    from app.pictures.cleaning import clean

    return clean(data, declared=declared)


class CleanerDied(Exception):
    """The process ended before it answered: killed for its memory, or the decoder crashed; or it could not be started,
    took too long, or said what is no answer."""


class Cleaners:
    """As many processes as `run` is called at once; the caller bounds that."""

    def __init__(self) -> None:
        self._idle: list[_Cleaner] = []
        self._lock = threading.Lock()
        self._closed = False

    def run(self, clean: Clean, data: bytes) -> CleanPicture:
        """`clean(data)` in one of them; `clean` can be pickled. For a thread: waits until it is over.

        Raises UnfitPicture, CleanerDied, and RuntimeError for what `clean` raises beside.
        """
        cleaner = self._take()
        try:
            picture = read_answer(*cleaner.ask(clean, data))
        except UnfitPicture:
            self._put_back(cleaner)
            raise
        except BaseException:
            # It may have been taken over by this picture: it gets no other.
            cleaner.kill()
            raise
        self._put_back(cleaner)
        return picture

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

    def _take(self) -> _Cleaner:
        with self._lock:
            cleaner = self._idle.pop() if self._idle else None
        if cleaner is None:
            return _Cleaner()
        if not cleaner.is_alive:
            # It died while nobody needed it, which is nobody's fault.
            cleaner.end()
            return _Cleaner()
        return cleaner

    def _put_back(self, cleaner: _Cleaner) -> None:
        with self._lock:
            if keep := not self._closed:
                self._idle.append(cleaner)
        if not keep:
            cleaner.end()


class _Cleaner:
    """One process, and the end of a socket on which it is asked. It ends when that is closed, however we end.

    Raises CleanerDied where none can be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._connection = Connection(os.dup(ours.fileno()))
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-W", "ignore", "-m", __name__, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise CleanerDied(f"no process could be started: {error.strerror}") from error
        self._socket = ours

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, clean: Clean, data: bytes) -> tuple[bytes, bytes]:
        """What it says of the file, and the file that it made. Raises CleanerDied."""
        is_late = threading.Event()
        timer = threading.Timer(LONGEST_SECONDS, self._give_up, args=[is_late])
        timer.daemon = True
        timer.start()
        try:
            self._connection.send((clean, data))
            return self._connection.recv_bytes(MOST_SAID), self._connection.recv_bytes(MOST_BYTES)
        except (EOFError, OSError) as error:
            if is_late.is_set():
                raise CleanerDied(f"the process did not answer within {LONGEST_SECONDS:g} s") from error
            raise CleanerDied(f"the process ended with {self._process.poll()}") from error
        finally:
            # Waited for, so that it never ends a process that has the next picture.
            timer.cancel()
            timer.join()

    def _give_up(self, is_late: threading.Event) -> None:
        """Wake who sends or reads, wherever it is: a child of the process may hold the other end open."""
        is_late.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self._close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """It owes nobody anything."""
        self._close()
        self._process.kill()
        self._process.wait()

    def _close(self) -> None:
        self._connection.close()
        self._socket.close()


def read_answer(said: bytes, data: bytes) -> CleanPicture:
    """Nothing of it is believed that could do harm: a decoder may have been taken over by what it decoded. So it is no
    pickle, and the hash, which names an object, is made here.

    Raises UnfitPicture; RuntimeError for what went wrong in our code there; CleanerDied for what it never says.
    """
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        told = None
    match told:
        case {"broken": str(why)}:
            raise RuntimeError(f"a picture could not be cleaned: {why}")
        case {"code": str(code), "detail": str(detail)}:
            raise UnfitPicture(code, detail)
        case {"width": int(width), "height": int(height), "content_type": str(kind)} if kind in KINDS:
            return CleanPicture(data, hashlib.sha256(data).hexdigest(), width, height, kind)
    raise CleanerDied("the process said what is no answer")


def serve(connection: Connection) -> None:
    """Do what is asked on it, until its other end is closed."""
    # A Ctrl-C on the terminal is for the gateway, which ends us when what it has begun is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _give_way()
    while True:
        try:
            said, data = _done(*connection.recv())
            connection.send_bytes(json.dumps(said).encode())
            connection.send_bytes(data)
        except (EOFError, OSError):
            return


def _give_way() -> None:
    """To everybody on the machine. Our niceness alone may count among the processes of our session only: those of one
    gateway would take as much as all of another one, or as a worker."""
    os.nice(NICENESS)
    if not os.access(SESSION, os.W_OK):
        return
    os.setsid()
    for _ in range(SESSION_TRIES):
        # Of all who are not root together, the kernel takes one such change in 100 ms.
        with suppress(OSError):
            SESSION.write_text(str(NICENESS))
            return
        time.sleep(0.1)


def _done(clean: Clean, data: bytes) -> tuple[dict[str, str | int], bytes]:
    try:
        picture = clean(data)
    except UnfitPicture as unfit:
        return {"code": unfit.code, "detail": unfit.detail}, b""
    except Exception as error:
        return {"broken": f"{type(error).__name__}: {error}"[:500]}, b""
    sides = {"width": picture.width, "height": picture.height}
    return {**sides, "content_type": picture.content_type}, picture.data


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
