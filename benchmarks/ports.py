"""A TCP port on loopback for a server that is about to start.

Below the range that the kernel gives to outgoing connections (32768 and up on Linux, 49152 on macOS), and chosen at
random: two runs beside each other look for ports at the same moment, and a server that is killed and comes back finds
its own port free.
"""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 32_000)

_chance = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """One that nobody listens on, and that this process has not been given before."""
    while True:
        port = _chance.choice(PORTS)
        with socket.socket() as probe:
            if port in _given or probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
