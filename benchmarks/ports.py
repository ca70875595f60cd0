"""A TCP port on loopback for a server that is about to start.

Below the range that the kernel gives to outgoing connections (32768 and up on Linux, 49152 on macOS), and chosen at
random: two runs beside each other look for ports at the same moment, and a server that is killed and comes back finds
its own port free.
"""

from __future__ import annotations

import os
import random
import socket

PORTS = range(20_000, 32_000)

_chance = random.SystemRandom()
_given: set[int] = set()


def own_share() -> range:
    """Those of this process among pytest-xdist's, and of its children: between the look and the bind of a server that
    takes seconds to start, another process would be given the same port."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return PORTS[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port() -> int:
    """One that nobody listens on, and that this process has not been given before."""
    while True:
        port = _chance.choice(own_share())
        with socket.socket() as probe:
            if port in _given or probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
