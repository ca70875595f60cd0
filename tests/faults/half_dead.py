"""A TCP proxy whose connections can be made half dead: they stay open and swallow everything, while new ones work.

As firewalls, NAT tables and load balancers do that forgot a connection. Loopback only.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class HalfDeadProxy:
    """Stands before one port of this machine. `port` is its own."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> int:
        """From now on nothing comes through what is open now, in either direction. How many connections that are."""
        with self._lock:
            for pair in self._open:
                pair.is_swallowing = True
            return len(self._open)

    def close(self) -> None:
        # A thread that waits in accept holds the port open until it is woken.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for pair in self._open:
                pair.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            pair = _Pair(near, far)
            with self._lock:
                self._open.add(pair)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=[pair, source, sink], daemon=True).start()

    def _carry(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if not pair.is_swallowing:
                    sink.sendall(data)
        pair.close()
        with self._lock:
            self._open.discard(pair)


class _Pair:
    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._sockets = near, far
        self.is_swallowing = False

    def close(self) -> None:
        for each in self._sockets:
            # shutdown, because close alone would not wake the thread that reads from it.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
