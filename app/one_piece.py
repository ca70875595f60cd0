"""An answer leaves in one piece: uvicorn writes head and body apart, and uvloop sends at once whatever is written.

Knows a transport. Refuses to know what is written.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

MOST_HELD: Final = 64 * 1024
"""Bytes. More is sent at once: the transport must see it to slow its writer down."""


class Gathering:
    """A transport that sends what is written within one turn of the loop together. Saves a packet and a system call."""

    __slots__ = ("_held", "_loop", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._held = 0

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
        if self._parts:
            parts, self._parts, self._held = self._parts, [], 0
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
