"""The jobs of workers that died under `darkroom up` go back to the queue at once: here it is certain that they died.

A name is written to the data folder before the process with it is started, and struck out when its jobs were handed
back, by this start or by the next. Knows names and Redis. Refuses to know how anybody is sure of a death.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.contract.common.environment import WORKER_NAME
from app.contract.redis import clients
from app.contract.redis.ownership import Ownership

REDIS_SECONDS = 2.0
AGAIN_SECONDS = 1.0

ROUNDS = 3
"""Answers until a name is struck out. What the dead process had sent may be read after the first: a claim, at worst."""


class LostWorkers:
    """Of one data folder, whose lock the caller holds: nobody else starts workers in it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "workers"
        self._lock = threading.Lock()
        self._living: dict[str, set[str]] = {}
        self._connect: Callable[[], redis.Redis] | None = None

    def connect(self) -> redis.Redis:
        """A client whose every call ends within seconds."""
        assert self._connect is not None, "This is a bug: Redis is not known yet."
        return self._connect()

    def open(self, redis_url: str) -> None:
        """Names that an earlier start has left are those of dead processes."""

        def connect() -> redis.Redis:
            options = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
            return clients.client(redis_url, decode_responses=True, retry=Retry(NoBackoff(), 0), **options)

        self._connect = connect
        for name in self._written():
            self.hand_back(name)

    def name_one(self, child: str) -> dict[str, str]:
        """The environment of a worker that is about to start as this child."""
        name = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        with self._lock:
            self._living.setdefault(child, set()).add(name)
            self._write([*self._written(), name])
        threading.Thread(target=self._say_it_begins, args=[name], daemon=True).start()
        return {WORKER_NAME: name}

    def _say_it_begins(self, name: str) -> None:
        """The process itself says what it is at once it has imported its libraries, which takes some seconds."""
        with suppress(redis.RedisError), self.connect() as client:
            Ownership(client).starting(name, "its process begins")

    def died(self, child: str) -> None:
        """Every process that had a name as this child has ended, and was waited for."""
        with self._lock:
            dead = self._living.pop(child, set())
        for name in dead:
            self.hand_back(name)

    def hand_back(self, name: str) -> None:
        """In a thread: Redis may be away, and whoever calls has processes to look after."""
        threading.Thread(target=self._hand_back, args=[name], name=f"lost {name}", daemon=True).start()

    def close(self) -> None:
        """Once more for all that are left, when they have ended and Redis has not. What fails is the next start's."""
        if self._connect is None:  # the folder is somebody else's, and so are the workers
            return
        for name in self._written():
            with suppress(redis.RedisError):
                self._judge(name)
                self._strike_out(name)

    def _hand_back(self, name: str) -> None:
        pause, rounds = threading.Event(), 0
        while rounds < ROUNDS:
            try:
                self._judge(name)
                rounds += 1
            except redis.RedisError:
                rounds = 0
            pause.wait(AGAIN_SECONDS)
        self._strike_out(name)

    def _judge(self, name: str) -> None:
        with self.connect() as client:
            requeued, failed = Ownership(client).worker_lost(name)
        if requeued or failed:
            print(f"darkroom: of its jobs, {requeued} are queued again and {failed} have failed", file=sys.stderr)

    def _written(self) -> list[str]:
        try:
            return self._file.read_text().split()
        except FileNotFoundError:
            return []

    def _strike_out(self, name: str) -> None:
        with self._lock:
            self._write([each for each in self._written() if each != name])

    def _write(self, names: list[str]) -> None:
        partial = self._file.with_suffix(".new")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write("".join(f"{name}\n" for name in names))
            partial.replace(self._file)
        except OSError as error:
            # A full disk: a next start will not know these names, and their jobs wait for their leases then.
            print(f"darkroom: {self._file} cannot be written ({error.strerror})", file=sys.stderr)
