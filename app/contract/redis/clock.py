"""What time it is by Redis' clock, for Python that is asked for what is due: hosts disagree about theirs.

Scripts have `now` of prelude.lua.
"""

from __future__ import annotations

from typing import Any, cast


async def now_ms(client: Any) -> int:
    """Milliseconds since 1970. `client` is asynchronous. Raises redis.RedisError while Redis is away."""
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def due(client: Any, key: str, *, limit: int) -> list[str]:
    """Of a sorted set by moments (ms) at most `limit` members whose moment has come, the oldest first. `client`
    decodes. Raises redis.RedisError."""
    return cast(list[str], await client.zrangebyscore(key, "-inf", await now_ms(client), start=0, num=limit))
