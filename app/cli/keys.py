"""`darkroom keys`: the secrets a tenant needs, read from the service's own Redis. For operators on its machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import redis
import redis.asyncio

from app.cli.embedded import EmbeddedValkey
from app.contract.environment import SettingsError
from app.settings import settings_from_env
from app.webhooks.secrets import Secrets


def webhook_secret(tenant: str, *, rotate: bool, data: Path) -> int:
    """Print the secret that signs the tenant's webhooks; with `rotate`, a new one. Returns the exit code."""
    try:
        secrets = asyncio.run(_ask(_redis_url(data), tenant, rotate))
    except (SettingsError, redis.RedisError, OSError) as error:
        remedy = f"start the service, set REDIS_URL, or name its data folder with --data (now {data})"
        print(f"darkroom keys: the service's Redis does not answer ({error}); {remedy}", file=sys.stderr)
        return 1
    print(secrets[0])
    return 0


async def _ask(url: str, tenant: str, rotate: bool) -> list[str]:
    async with redis.asyncio.Redis.from_url(url, decode_responses=True, socket_connect_timeout=2) as client:
        secrets = Secrets(client)
        if rotate:
            return await secrets.rotate(tenant)
        return await secrets.current(tenant)


def _redis_url(data: Path) -> str:
    """The configured Redis, else the embedded one of the data folder."""
    settings = settings_from_env()
    embedded = EmbeddedValkey(data.absolute())
    if "redis_url" not in settings.model_fields_set and embedded.socket.exists():
        return embedded.url
    return settings.redis_url.get_secret_value()
