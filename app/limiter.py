"""What a key may use in a minute, counted in Redis for all gateways together.

Knows keys' limits and counters. Refuses to know what a request is or what a picture costs.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import redis.asyncio
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from app.auth import Authenticator, Caller
from app.contract import keys
from app.errors import RateLimited
from app.stream_tokens import StreamRequest, StreamTokens

WINDOW_SECONDS = 60


class Doorkeeper:
    """Who asks, whether the key allows it, and whether it has not asked too often. The guard calls it."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        self.limiter: Limiter | None = None
        self.stream_tokens: StreamTokens | None = None

    async def admit(
        self, header: str | None, *, method: str, stream: StreamRequest | None = None
    ) -> tuple[Caller, dict[str, str]]:
        """The caller, and headers for the answer. Raises Unauthenticated, Forbidden, RateLimited, redis.RedisError."""
        listener = await self._listener(stream) if stream and header is None else None
        caller = listener or await self.authenticator.authenticate(header)
        caller.require(method)
        return caller, await self.limiter.count_request(caller) if self.limiter else {}

    async def _listener(self, stream: StreamRequest) -> Caller | None:
        """Who asked for the stream's token, with no right but to listen."""
        found = await self.stream_tokens.find(stream) if self.stream_tokens else None
        caller = await self.authenticator.of_key(found[1]) if found else None
        return replace(caller, scopes=frozenset({"read"})) if found and caller and caller.tenant == found[0] else None


class Limiter:
    """Raises redis.RedisError while Redis is away. `client` is the one for commands."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=keys.LIMITS.removesuffix(":"),
            connection_pool=client.connection_pool,  # type: ignore[arg-type]
        )
        self._window = SlidingWindowCounterRateLimiter(storage)

    async def count_request(self, caller: Caller) -> dict[str, str]:
        """Headers that say how much is left; none without a limit. Raises RateLimited."""
        if caller.requests_per_minute is None:
            return {}
        limit = RateLimitItemPerMinute(caller.requests_per_minute)
        allowed = await self._window.hit(limit, "requests", caller.key_id)
        headers = await self._headers("requests", limit, caller)
        if not allowed:
            raise self._refusal(f"This key may make {limit.amount} requests a minute.", headers)
        return headers

    async def check_cost(self, caller: Caller, cost: float) -> None:
        """Raises RateLimited if a job of this many megapixel steps is more than what is left."""
        if caller.cost_per_minute is None:
            return
        limit = RateLimitItemPerMinute(caller.cost_per_minute)
        if not await self._window.test(limit, "cost", caller.key_id, cost=_whole(cost)):
            said = f"This job costs {_whole(cost)} megapixel steps, and this key has {limit.amount} a minute."
            raise self._refusal(said, await self._headers("cost", limit, caller))

    async def spend(self, caller: Caller, cost: float) -> None:
        """Take the cost of an accepted job off what is left."""
        if caller.cost_per_minute is not None:
            limit = RateLimitItemPerMinute(caller.cost_per_minute)
            await self._window.hit(limit, "cost", caller.key_id, cost=_whole(cost))

    async def _headers(self, name: str, limit: RateLimitItem, caller: Caller) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers-10 has them."""
        stats = await self._window.get_window_stats(limit, name, caller.key_id)
        seconds = max(1, math.ceil(stats.reset_time - time.time()))
        policy = f'"{name}";q={limit.amount};w={WINDOW_SECONDS}'
        return {"RateLimit-Policy": policy, "RateLimit": f'"{name}";r={max(0, stats.remaining)};t={seconds}'}

    @staticmethod
    def _refusal(detail: str, headers: dict[str, str]) -> RateLimited:
        return RateLimited(detail, headers=headers | {"Retry-After": headers["RateLimit"].rpartition("=")[2]})


def _whole(cost: float) -> int:
    return max(1, math.ceil(cost))
