"""The address at which the gateway answers: whether it can be had, and the socket that has it. Knows no settings."""

from __future__ import annotations

import errno
import socket
import time

REBIND_SECONDS = 2.0
"""The gateway workers of a process that was killed hold its port for a moment."""


class CannotListen(Exception):
    """Somebody else has the address, or it is not ours."""


def bound_to(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        _bind(bound, (host, port))
    except OSError as error:
        bound.close()
        remedy = "stop what listens there, or choose another with --port or DARKROOM_PORT"
        raise CannotListen(f"{host}:{port} cannot be used ({error.strerror}); {remedy}") from error
    return bound


def _bind(bound: socket.socket, address: tuple[str, int]) -> None:
    ends = time.monotonic() + REBIND_SECONDS
    while True:
        try:
            return bound.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > ends:
                raise
        time.sleep(0.05)
