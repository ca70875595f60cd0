"""What large bodies share while they come in: bytes of the disk, and the event loop.

Knows amounts and who came first. Refuses to know what a body is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from app.edge.errors import TooManyUploads

REST: Final = 0.002
"""Seconds between two pieces of large bodies, while more than one comes in: a gigabit a second, and most of the event
loop for everybody else. Photos are cleaned at a fifth of that."""


class Space:
    """Bytes that large bodies may have together. Who comes first is served first, also where a later one would fit."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, amount: int, *, seconds: float) -> int:
        """Wait until there are so many, or all, and say how many are to be given back. Raises TooManyUploads after
        `seconds`."""
        amount = min(amount, self._total)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._serve()
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give(amount)
            else:
                turn.cancel()
                self._serve()
            if not isinstance(error, TimeoutError):
                raise
            raise TooManyUploads("More large bodies come in than are taken at a time.", retry_after=5) from None
        return amount

    def give(self, amount: int) -> None:
        """So many are free again."""
        self._free += amount
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            amount, turn = self._waiting[0]
            # Who gives up hears of it a round after the turn was canceled: nothing is given to it in between.
            if not turn.done():
                if amount > self._free:
                    return
                self._free -= amount
                turn.set_result(None)
            self._waiting.popleft()


class Turns:
    """Large bodies are read a piece at a time, by who has waited longest. One that comes alone does not rest.

    A piece is what a socket holds, up to 256 KiB. A hundred of them at once keep the event loop for 50 ms, and it takes
    several rounds of it to answer anybody. Who has had a turn owes nothing: a sender who stops keeps nobody waiting.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_serving = False

    async def take(self) -> float:
        """Wait for a turn, and say how many seconds it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn = loop.create_future()
        self._waiting.append(turn)
        if not self._is_serving:
            self._is_serving = True
            loop.call_soon(self._serve, loop)
        await turn
        return loop.time() - began

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            self._is_serving = False
            return
        turn = self._waiting.popleft()
        if not turn.done():
            turn.set_result(None)
        loop.call_later(REST if self._waiting else 0, self._serve, loop)
