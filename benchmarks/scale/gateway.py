"""What a gateway of this version has behind its routes, without the routes.

Knows how two versions put it together. Refuses to know what it is used for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

import redis.asyncio
from pydantic import SecretStr

from app.services import Services
from app.settings import Settings

try:
    from app.wiring import open_services
except ModuleNotFoundError:
    from app.main import open_services  # type: ignore[attr-defined, no-redef]

NO_LIMIT = {"queue_limit": 10**7, "tenant_limit": 10**7}
"""Of a submit: nobody is refused."""


@asynccontextmanager
async def gateway(url: str) -> AsyncIterator[Services]:
    """Over the Redis at `url` and an empty folder of pictures."""
    commands, waiting = (redis.asyncio.Redis.from_url(url, decode_responses=True) for _ in range(2))
    with TemporaryDirectory(prefix="scale-pictures-") as folder:
        settings = Settings(redis_url=SecretStr(url), storage_url=folder, signing_key=SecretStr("s" * 32))
        services = open_services(settings, commands, waiting)
        try:
            yield services
        finally:
            await services.feed.close()
            services.inputs.close()
            await commands.aclose()
            await waiting.aclose()
