"""An answer leaves in one piece, also to who is still sending, and a reader that stands still is left.

uvicorn writes head and body apart, and uvloop sends at once whatever is written. And neither ever gives a reader up:
one that reads nothing holds its connection, and the file behind it, for as long as it likes. And both close on who
sends: the kernel answers what comes then with a reset, and a sender that meets one drops the answer. nginx makes a 502
of a refusal, be it that a key is unknown.

Knows a transport and the clock of its loop. Refuses to know what is written.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import structlog

log = structlog.get_logger()

MOST_HELD: Final = 64 * 1024
"""Bytes. More is sent at once: the transport must see it to slow its writer down."""

STILL_SECONDS: Final = 30.0
"""A connection ends if none of what waits for its reader has left in so long. A slow one that moves is waited for."""


LINGER_SECONDS: Final = 5.0
"""A sender whose request was answered before its end has so long to see the answer and to stop."""


class Gathering:
    """A transport that sends what is written within one turn of the loop together. Saves a packet and a system call.

    Aborts itself when its reader stands still for `still_seconds`, also after it was closed. Closed on who
    `is_sending`, it is deaf to what comes until that ends, or for `linger_seconds` (RFC 9112, 9.6); a second `close`
    waits for nobody.
    """

    __slots__ = (
        "_held",
        "_linger_seconds",
        "_lingers",
        "_loop",
        "_parts",
        "_sent",
        "_still_seconds",
        "_transport",
        "_watch",
        "_written",
        "is_sending",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        still_seconds: float = STILL_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._still_seconds = still_seconds
        self._linger_seconds = linger_seconds
        self._lingers: asyncio.TimerHandle | None = None
        self.is_sending = False
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
        if self.is_sending and not self.is_closing():
            self._lingers = self._loop.call_later(self._linger_seconds, self._transport.close)
            # Who has gone in between is found out by reading.
            with suppress(OSError):
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self.forget()
            self._transport.close()

    def is_closing(self) -> bool:
        """Whether what comes is not read any more."""
        return self._lingers is not None or self._transport.is_closing()

    def forget(self) -> None:
        """The connection has ended."""
        if self._lingers is not None:
            self._lingers.cancel()

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
