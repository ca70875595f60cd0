"""What a key may use in a minute, and how an answer says it.

Knows keys' limits and the headers that tell of them. Refuses to know how is counted, and what a picture costs.
"""

from __future__ import annotations

import math
from dataclasses import replace

from app.contract.redis.keys import LIMIT_WINDOW_MS
from app.contract.redis.quota import Budget, Left, Quota
from app.edge.auth import Authenticator, Caller
from app.edge.errors import RateLimited
from app.edge.stream_tokens import StreamRequest, StreamTokens


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
    """Raises redis.RedisError while Redis is away."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota

    async def count_request(self, caller: Caller) -> dict[str, str]:
        """Headers that say how much is left; none without a limit. Raises RateLimited."""
        if caller.requests_per_minute is None:
            return {}
        budget = Budget(f"requests:{caller.key_id}", caller.requests_per_minute)
        allowed, left = await self._quota.count(budget)
        if not allowed:
            raise _refusal(f"This key may make {budget.allowed} requests a minute.", budget, left)
        return _headers(budget, left)


def budget_for_jobs(caller: Caller) -> Budget | None:
    """What the caller's jobs are charged to, in megapixel steps; None for a key without such a limit."""
    return None if caller.cost_per_minute is None else Budget(f"cost:{caller.key_id}", caller.cost_per_minute)


def fits(cost: float, budget: Budget | None) -> bool:
    """Whether a job of this cost can ever be let in, be it as the only one of its minute."""
    return budget is None or counted(cost) <= budget.allowed


def too_dear_now(cost: float, budget: Budget, left: Left) -> RateLimited:
    """The refusal of a job for which less is left than it costs."""
    said = f"This job costs {counted(cost)} megapixel steps, and this key has {budget.allowed} a minute."
    return _refusal(said, budget, left)


def counted(cost: float) -> int:
    """Megapixel steps as they are counted: whole ones, as prelude.lua does it."""
    return max(1, math.ceil(cost))


def _headers(budget: Budget, left: Left) -> dict[str, str]:
    """As draft-ietf-httpapi-ratelimit-headers-10 has them."""
    name = budget.counter.partition(":")[0]
    policy = f'"{name}";q={budget.allowed};w={LIMIT_WINDOW_MS // 1000}'
    return {"RateLimit-Policy": policy, "RateLimit": f'"{name}";r={left.amount};t={_seconds(left)}'}


def _refusal(detail: str, budget: Budget, left: Left) -> RateLimited:
    return RateLimited(detail, headers=_headers(budget, left) | {"Retry-After": str(_seconds(left))})


def _seconds(left: Left) -> int:
    return max(1, math.ceil(left.wait_ms / 1000))
