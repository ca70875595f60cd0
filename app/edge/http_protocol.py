"""uvicorn's HTTP protocol with the two limits it lacks: how long a request's head may take, and how large it may grow.
And without the trailers of a chunked body, which it takes for headers.

Knows a connection before there is a request. The guard, an ASGI application, first hears of one when its head is whole.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.edge.guard import FILES_BYTES, MAX_HEAD_BYTES
from app.edge.transport import LINGER_SECONDS, STILL_SECONDS, Gathering

HEAD_SECONDS = 10.0

LARGEST_HEAD = 4 * MAX_HEAD_BYTES
"""Bytes without an end of the head after which nobody listens. Up to this, the guard answers with a reason."""


class LimitedProtocol(HttpToolsProtocol):
    """Give it to uvicorn as `http=`. Closes without an answer: whoever sends half a head does not wait for one."""

    head_seconds = HEAD_SECONDS
    still_seconds = STILL_SECONDS
    linger_seconds = LINGER_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _unread_bytes = 0
    _is_in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._gathering = Gathering(
            transport, self.loop, still_seconds=self.still_seconds, linger_seconds=self.linger_seconds
        )
        super().connection_made(cast(asyncio.Transport, self._gathering))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        self._gathering.forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._gathering.is_closing():
            self._unread_bytes += len(data)
            if self._unread_bytes > FILES_BYTES:
                self.transport.close()
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head:
            self._await_head()
        if self._timer is not None and self._head_bytes > LARGEST_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        if self._timer is None:
            self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110, 6.5.1: a trailer is no header unless its definition says so, and none that we read does. It comes
        # after the head was judged: a second Authorization, Host or Idempotency-Key would be nobody's to refuse.
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._head_is_here()
        self._gathering.is_sending = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._gathering.is_sending = False
        super().on_message_complete()

    def _await_head(self) -> None:
        # Of a head that comes whole, as most do, nobody has to take the time.
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _head_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self.transport.close()
