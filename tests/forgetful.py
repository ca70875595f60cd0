"""Clients of Redis whose answers get lost: a script runs, and nobody hears what came of it.

Either the call is made again, as redis-py does with a connection that breaks between the two, at once or after others
had their turn; or the caller hears of a broken connection, as after the last of redis-py's tries. Knows nothing of what
the scripts do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio


class Losses:
    """Of how many scripts the next answer is lost, for all clients that share this. `breaks`: the caller hears so;
    `meanwhile` happens before the call is made again. `calls` are the last ones, with what came of each."""

    def __init__(
        self, left: float = 0, *, breaks: bool = False, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self.left = left
        self.breaks = breaks
        self.meanwhile = meanwhile
        self.calls: deque[tuple[tuple[Any, ...], Any]] = deque(maxlen=20)

    def client(self, url: str) -> redis.Redis:
        client: Any = _Client.from_url(url, decode_responses=True)
        client.losses = self
        return client  # type: ignore[no-any-return]

    def async_client(self, url: str) -> redis.asyncio.Redis:
        client: Any = _AsyncClient.from_url(url, decode_responses=True)
        client.losses = self
        return client  # type: ignore[no-any-return]

    def note(self, command: tuple[Any, ...], answer: Any) -> Any:
        if command[0] == "EVALSHA":
            self.calls.append((command, answer))
        return answer

    def forget(self, command: tuple[Any, ...]) -> bool:
        """Is the answer to this command lost? Raises redis.ConnectionError if the caller is to hear so."""
        if command[0] != "EVALSHA" or self.left < 1:
            return False
        self.left -= 1
        if self.breaks:
            raise redis.ConnectionError("the answer was lost")
        return True


class _Client(redis.Redis):
    losses: Losses

    def execute_command(self, *command: Any, **options: Any) -> Any:
        answer = super().execute_command(*command, **options)
        if self.losses.forget(command):
            answer = super().execute_command(*command, **options)
        return self.losses.note(command, answer)


class _AsyncClient(redis.asyncio.Redis):
    losses: Losses

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        answer = await super().execute_command(*command, **options)
        if self.losses.forget(command):
            if self.losses.meanwhile is not None:
                await self.losses.meanwhile()
            answer = await super().execute_command(*command, **options)
        return self.losses.note(command, answer)
