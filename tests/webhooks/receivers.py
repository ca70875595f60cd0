"""A real HTTP receiver on loopback that follows a script of answers, and what it may do to a message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook as Verifier

from tests.waiting import WAIT_SECONDS

Step = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Arrival:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def job_id(self) -> str:
        return str(json.loads(self.body)["data"]["id"])


def says(status: str, *headers: str, body: bytes = b"ok") -> Step:
    """Answer like an ordinary server."""

    async def step(writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"))
        writer.write(head.encode() + b"\r\n" + body)
        await writer.drain()

    return step


async def resets(writer: asyncio.StreamWriter) -> None:
    """Break the connection before an answer."""
    writer.transport.abort()


@dataclass
class Receiver:
    """An HTTP server on loopback. Each request takes the next step of the script; after the last, all get a 200."""

    script: list[Step] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    port: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _talks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def holds(self, writer: asyncio.StreamWriter) -> None:
        """A step: answer only when `held` is set."""
        await self.held.wait()
        await says("200 OK")(writer)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def goes_down(self) -> None:
        if self._server:
            self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def arrived(self, count: int) -> list[Arrival]:
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.arrivals) >= count)
        return self.arrivals

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._talk(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while arrival := await self._read(reader):
                self.arrivals.append(arrival)
                async with self._changed:
                    self._changed.notify_all()
                step = self.script.pop(0) if self.script else says("200 OK")
                await step(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Arrival:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        return Arrival(head[0].split(" ")[1], headers, body)


def verified(arrival: Arrival, secret: str) -> dict[str, Any]:
    """The message, if a receiver with this secret believes it."""
    message: dict[str, Any] = Verifier(secret).verify(arrival.body, arrival.headers)
    return message
