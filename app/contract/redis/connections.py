"""A pool of connections to Redis whose callers queue: first come, first served, for as long as the queue moves.

Knows connections, turns and what redis-py takes long for, and tells a Redis that hangs from a process that stood still
itself. Refuses to know what is asked over them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import hiredis
import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

T = TypeVar("T")

LATE_SECONDS = 0.5
"""A time limit that is noticed so long after it was over was missed by the whole process: it, or its machine, stood
still, and the answer may have been there all the time. A loop that is only busy is late by less."""

LONGEST_WAIT = 5.0
"""Seconds. A queue that long is no burst any more: the caller should hear so."""


class FairPool(ConnectionPool):
    """Lets at most `max_connections` commands run at a time.

    A caller gives up when no command has been answered for `stalled_seconds`: a burst waits, a Redis that hangs fails
    everybody in time. redis-py's BlockingConnectionPool cannot tell the two apart, and lets newcomers pass those who
    wait. Raises redis.ConnectionError.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        stalled_seconds: float,
        connection_class: type[AbstractConnection] = Connection,
        **options: Any,
    ) -> None:
        super().__init__(_light(connection_class), max_connections=max_connections, **options)
        self._idle: list[AbstractConnection] = []
        self._turns = asyncio.Semaphore(max_connections)
        self._stalled_seconds = stalled_seconds
        self._answered_at = 0.0

    async def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> AbstractConnection:
        """A connection that is ready for a command, when it is this caller's turn."""
        await self._wait_for_turn()
        try:
            # What was given back is in use as redis-py's own books have it: keeping them takes longer than a command.
            connection = self._idle.pop() if self._idle else self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._turns.release()
            raise
        try:
            if not await _is_ready(connection):
                await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take it back. One that is still connected has brought an answer."""
        if connection.is_connected:
            self._answered_at = time.monotonic()
        try:
            if connection.should_reconnect():  # type: ignore[no-untyped-call]
                await connection.disconnect()
        finally:
            self._idle.append(connection)
            self._turns.release()

    async def _wait_for_turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        began = looked = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._stalled_seconds):
                    await self._turns.acquire()
                    return
            except TimeoutError:
                before, looked = looked, time.monotonic()
                if looked - before > self._stalled_seconds + LATE_SECONDS:
                    continue
                if looked - began > LONGEST_WAIT or looked - self._answered_at > self._stalled_seconds:
                    raise redis.ConnectionError("No connection to Redis became free in time.") from None


class StallAwareRetry(Retry):
    """Tries again where a connection broke: a pool full of them is left behind when Redis restarts. A call that took
    longer than `seconds`, its time limit, is not tried again, unless it was this process that stood still.
    """

    def __init__(self, *, seconds: float) -> None:
        super().__init__(ExponentialBackoff(cap=0.1, base=0.02), 2, supported_errors=(redis.ConnectionError,))
        self._seconds = seconds

    async def call_with_retry(
        self, do: Callable[[], Awaitable[T]], fail: Callable[..., Any], *args: Any, **options: Any
    ) -> T:
        async def timed() -> T:
            began = time.monotonic()
            try:
                return await do()
            except redis.TimeoutError as error:
                if time.monotonic() - began <= self._seconds + LATE_SECONDS:
                    raise
                raise redis.ConnectionError("This process stood still.") from error

        return await super().call_with_retry(timed, fail, *args, **options)


async def _is_ready(connection: AbstractConnection) -> bool:
    try:
        return connection.is_connected and not await connection.can_read()
    except redis.ConnectionError:
        return False


class _Light(AbstractConnection):
    """A connection of redis-py that takes less time for a command.

    It carries one at a time, so no more than one can ever wait to be sent.
    """

    _writer: asyncio.StreamWriter
    """redis-py's own name: pyproject.toml says with which versions of it this was tried."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """The bytes of a command, made by hiredis, as redis-py's blocking client has them made."""
        name, *rest = args
        words = name.encode().split() if isinstance(name, str) else name.split()
        try:
            return [hiredis.pack_command((*words, *rest))]
        except TypeError:
            return super().pack_command(*args)

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Does not wait until the command has left, for which redis-py starts a task and a timer: one that stays has no
        answer, and reading that has a timer of its own. It leaves at the end of this turn of the loop, together with
        those of other connections, so that Redis wakes up once for all of them. Raises redis.ConnectionError."""
        if not self.is_connected or self.health_check_interval:
            return await super().send_packed_command(command, check_health)
        if self._writer.is_closing():
            await self.disconnect(nowait=True)
            raise redis.ConnectionError("Redis, or something before it, has reset the connection.")
        parts = [command] if isinstance(command, str | bytes) else command
        asyncio.get_running_loop().call_soon(_write, self._writer, parts)


def _write(writer: asyncio.StreamWriter, parts: Iterable[bytes | str]) -> None:
    # A connection that has ended meanwhile says so to whoever reads from it.
    if not writer.is_closing():
        writer.writelines(part.encode() if isinstance(part, str) else part for part in parts)


def _light(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same kind of connection, be it over TCP, TLS or a socket in the file system."""
    return type(f"Light{kind.__name__}", (_Light, kind), {})
