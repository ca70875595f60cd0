"""The secrets that webhooks are signed with, per tenant. They lie in Redis as they are: signing needs them whole."""

from __future__ import annotations

import base64
import secrets
from datetime import timedelta
from typing import Any, cast

import redis.asyncio

from app.contract.messages.audit import Change
from app.contract.redis.scripts import source

OLD_STAYS_FOR = timedelta(hours=24)
"""How long a rotated secret still signs, unless the operator says otherwise."""


def new_secret() -> str:
    """256 bits as the specification writes them: standard base64, which every receiver's library decodes."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


class Secrets:
    """Secrets by tenant. `client` must decode responses. Methods raise redis.RedisError while Redis is away."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._script = client.register_script(source("webhook_secret"))
        self._audit = client.register_script(source("audit"))

    async def current(self, tenant: str) -> list[str]:
        """The secret to hand to receivers, then the one before it while that is still valid. Made on first use."""
        return await self._ask(tenant, "")

    async def rotate(
        self, tenant: str, *, keep_old_for: timedelta = OLD_STAYS_FOR, change: Change | None = None
    ) -> list[str]:
        """Make a new secret, and with it a line of the audit. The old one signs beside it for `keep_old_for`; zero ends
        it now (it has leaked)."""
        if keep_old_for < timedelta():
            raise ValueError("keep_old_for must not be negative")
        keep_ms = int(keep_old_for.total_seconds() * 1000)
        if change is None:
            return await self._ask(tenant, keep_ms)
        # Not in the script: the webhooks' process, which asks for secrets, may not write the audit.
        async with self._redis.pipeline() as pipeline:
            await self._ask(tenant, keep_ms, pipeline)
            await self._audit(args=[change.line()], client=pipeline)
            return cast("list[str]", (await pipeline.execute())[0])

    async def _ask(self, tenant: str, keep_ms: int | str, client: Any = None) -> list[str]:
        return cast("list[str]", await self._script(args=[tenant, new_secret(), keep_ms], client=client))
