"""An answer leaves in one piece, and a reader that stands still is left.

uvicorn writes head and body apart, and uvloop sends at once whatever is written. And neither ever gives a reader up:
one that reads nothing holds its connection, and the file behind it, for as long as it likes.

Knows a transport and the clock of its loop. Refuses to know what is written.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

log = structlog.get_logger()

MOST_HELD: Final = 64 * 1024
"""Bytes. More is sent at once: the transport must see it to slow its writer down."""

STILL_SECONDS: Final = 30.0
"""A connection ends if none of what waits for its reader has left in so long. A slow one that moves is waited for."""


class Gathering:
    """A transport that sends what is written within one turn of the loop together. Saves a packet and a system call.

    Aborts itself when its reader stands still for `still_seconds`, also after it was closed.
    """

    __slots__ = ("_held", "_loop", "_parts", "_sent", "_still_seconds", "_transport", "_watch", "_written")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, *, still_seconds: float = STILL_SECONDS
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._still_seconds = still_seconds
        self._parts: list[bytes] = []
        self._held = 0
        self._written = 0
        self._sent = 0
        self._watch: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """At the end of this turn, or now if much is waiting."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)
        self._held += len(data)
        if self._held > MOST_HELD:
            self._send()

    def close(self) -> None:
        """After what was written is sent."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if not self._parts:
            return
        parts, self._parts = self._parts, []
        self._written += self._held
        self._held = 0
        self._transport.write(b"".join(parts))
        if self._watch is None and (waiting := self._transport.get_write_buffer_size()):
            self._look_again(waiting)

    def _look_again(self, waiting: int) -> None:
        self._sent = self._written - waiting
        self._watch = self._loop.call_later(self._still_seconds, self._look)

    def _look(self) -> None:
        """Whether anything has left since the last look. A connection that has ended has nothing that waits."""
        self._watch = None
        waiting = self._transport.get_write_buffer_size()
        if not waiting:
            return
        if self._written - waiting > self._sent:
            self._look_again(waiting)
        else:
            log.info("a reader stood still", waiting_bytes=waiting)
            self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
