"""What an API key may use in a minute, counted in Redis for all gateways together, by Redis' clock.

Knows counters. Refuses to know whose they are, what a request is or what a picture costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis.asyncio

from app.contract.messages.job import new_token
from app.contract.redis.scripts import source


@dataclass(frozen=True, slots=True)
class Budget:
    """A counter by name, and how much of it a minute allows."""

    counter: str
    allowed: int


@dataclass(frozen=True, slots=True)
class Left:
    """What a minute still allows, and after how many ms the window moves on or, if it was too little, it is enough."""

    amount: int
    wait_ms: int

    @classmethod
    def of(cls, amount: int, wait_ms: int) -> Left:
        return cls(int(amount), int(wait_ms))


class Quota:
    """Counts single requests; what a job costs is charged by the script that lets it in.

    Raises redis.RedisError while Redis is away. `client` must decode responses.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._count = client.register_script(source("count"))

    async def count(self, budget: Budget) -> tuple[bool, Left]:
        """Whether one more is within the budget, which it then is taken from, and what is left of it."""
        counted, *left = await self._count(args=[budget.counter, budget.allowed, new_token()])
        return bool(counted), Left.of(*left)
