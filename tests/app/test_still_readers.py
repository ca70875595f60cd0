"""Readers of pictures that stop reading, and senders who are answered before they are done, over real sockets:
connection and file are free again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from app.edge.http_protocol import LimitedProtocol
from app.settings import Settings
from tests.app.conftest import Running, ScriptedWorker, serve
from tests.app.test_jobs import PARAMETERS
from tests.waiting import WAIT_SECONDS, until

LARGE = 24 * 1024 * 1024
"""Bytes: more than the kernel holds for a reader on loopback."""


@pytest.fixture
def short_waits(settings: Settings, worker: ScriptedWorker) -> Iterator[Running]:
    """A gateway that gives a reader a fifth of a second in place of half a minute."""
    worker.announce()
    yield from serve(settings, http=type("Hasty", (LimitedProtocol,), {"still_seconds": 0.2}))


def link_of(client: httpx2.Client, worker: ScriptedWorker, data: bytes) -> str:
    job = client.post("/v1/jobs", json=PARAMETERS).json()
    worker.succeed(worker.claim(), data=data)
    url = client.get(job["urls"]["self"]).json()["images"][0]["url"]
    return "/" + url.split("/", 3)[3]


def ask(port: int, path: str, *headers: str) -> socket.socket:
    """A connection on which an answer has begun, of which nothing was read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(("127.0.0.1", port))
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    # Before, the gateway may not have heard of the connection: nobody is left by who holds neither it nor a file.
    connection.recv(1, socket.MSG_PEEK)
    return connection


def what_is_left(connection: socket.socket) -> bytes:
    """What the kernel still holds for the reader."""
    read = b""
    try:
        while chunk := connection.recv(1_048_576):
            read += chunk
    except ConnectionResetError:
        pass
    return read


def opened_below(folder: Path) -> list[str]:
    """The pictures that this process holds open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return [path for path in found if path.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux' /proc to count descriptors")
@pytest.mark.parametrize("headers", [(), ("Connection: close",)])
def test_a_reader_that_stops_frees_its_connection_and_the_file(
    short_waits: Running, worker: ScriptedWorker, picture_folder: Path, headers: tuple[str, ...]
) -> None:
    client = short_waits.client
    link = link_of(client, worker, bytes(LARGE))
    connections = short_waits.server.server_state.connections
    before = len(connections)
    with ask(short_waits.port, link, *headers) as still:
        until(lambda: len(connections) == before and not opened_below(picture_folder))
        assert 0 < len(what_is_left(still)) < LARGE, "cut short, and not told that it was whole"
    assert client.get("/healthz").status_code == 200


UNFINISHED = (
    b"POST /v1/inputs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer drk_unknown\r\n"
    b"Content-Type: image/png\r\nContent-Length: 20000000\r\n\r\n"
)
"""Refused by its head alone."""


@pytest.mark.parametrize("linger_seconds", [0.05, 3_600])
def test_who_sends_on_after_a_refusal(settings: Settings, linger_seconds: float) -> None:
    """The kernel would answer with a reset, and proxies make a 502 of that."""
    http = type("Lingers", (LimitedProtocol,), {"linger_seconds": linger_seconds})
    with contextmanager(serve)(settings, http=http) as running:
        connections = running.server.server_state.connections
        with socket.create_connection(("127.0.0.1", running.port), WAIT_SECONDS) as sender:
            sender.sendall(UNFINISHED)
            assert sender.recv(12) == b"HTTP/1.1 401"
            if linger_seconds > 1:
                sender.sendall(bytes(20_000_000))
                while sender.recv(65_536):
                    pass
                assert len(connections) == 1
                sender.shutdown(socket.SHUT_WR)
            until(lambda: not connections)
