"""What callers have used, by day, read from where the scripts count it: `use` in scripts/life.lua.

Knows keys and days. Refuses to know what counts: app/contract/messages/usage.py and docs/api.md do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import redis.asyncio

from app.contract.messages.usage import Usage
from app.contract.redis.keys import USAGE
from app.contract.redis.usage_counters import USAGE_COUNTERS

EPOCH_DAY = date(1970, 1, 1)

TENANTS_AT_ONCE = 1_000
"""Of one day, in one round trip: half a millisecond in which Redis answers nobody else."""

Day = tuple[date, str, Usage]
"""Of one tenant."""


class UsageStore:
    """Methods raise redis.RedisError while Redis is away. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once

    async def today(self) -> date:
        """By Redis' clock, in UTC, as the scripts count."""
        seconds, _ = await self._redis.time()
        return datetime.fromtimestamp(int(seconds), UTC).date()

    async def of(self, tenant: str, first: date, last: date) -> list[Day]:
        """Of the days from `first` to `last`, both included, those on which the tenant used anything, in their order.
        One round trip."""
        days = _days(first, last)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for day in days:
                pipeline.hget(_key(day), tenant)
            found = await pipeline.execute()
        return [(day, tenant, _read(text)) for day, text in zip(days, found, strict=True) if text is not None]

    async def of_all(self, first: date, last: date) -> AsyncIterator[list[Day]]:
        """The same of every tenant: day after day, each in the order of their names."""
        for day in await self._kept(first, last):
            told: dict[str, str] = {}
            async for tenant, text in self._redis.hscan_iter(_key(day), count=TENANTS_AT_ONCE):
                told[tenant] = text
            yield [(day, tenant, _read(told[tenant])) for tenant in sorted(told)]

    async def _kept(self, first: date, last: date) -> Sequence[date]:
        """The days of which there is anything."""
        days = _days(first, last)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for day in days:
                pipeline.exists(_key(day))
            found = await pipeline.execute()
        return [day for day, is_there in zip(days, found, strict=True) if is_there]


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _key(day: date) -> str:
    return f"{USAGE}{(day - EPOCH_DAY).days}"


def _read(text: str) -> Usage:
    """What an older version has written is shorter, what a newer one has longer."""
    return Usage(**dict(zip(USAGE_COUNTERS, map(int, text.split()), strict=False)))
