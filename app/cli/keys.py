"""`darkroom keys`: the secrets a tenant needs, read from the service's own Redis. For operators on its machine."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.embedded import EmbeddedValkey
from app.contract.environment import SettingsError
from app.keyring import Keyring
from app.settings import settings_from_env
from app.webhooks.secrets import Secrets

Work = Callable[[redis.asyncio.Redis], Awaitable[int]]
"""What a command does with the service's Redis. Returns the exit code."""


def create(tenant: str, *, data: Path, **options: Any) -> int:
    """Make a key for a tenant and print it: nobody can show it again. `options` are the fields of KeyInfo."""

    async def work(client: redis.asyncio.Redis) -> int:
        key, info = await Keyring(client).create(tenant, **options)
        print(key)
        print(f"key {info.id} of {info.tenant}: keep it, it is not shown again", file=sys.stderr)
        return 0

    return _with_redis(data, work)


def show(*, data: Path, as_json: bool) -> int:
    """Print every key that was not revoked, without the keys themselves."""

    async def work(client: redis.asyncio.Redis) -> int:
        infos = [info.model_dump(mode="json", exclude={"sha256"}) for info in await Keyring(client).all()]
        if as_json:
            print(json.dumps(infos))
        else:
            Console().print(_table(infos))
        return 0

    return _with_redis(data, work)


def revoke(key_id: str, *, data: Path) -> int:
    """End a key, everywhere within a second; what is open for it ends too."""

    async def work(client: redis.asyncio.Redis) -> int:
        if await Keyring(client).revoke(key_id):
            print(f"key {key_id} is revoked")
            return 0
        print("darkroom keys: there is no such key; `darkroom keys list` shows the ids", file=sys.stderr)
        return 1

    return _with_redis(data, work)


def webhook_secret(tenant: str, *, rotate: bool, data: Path) -> int:
    """Print the secret that signs the tenant's webhooks; with `rotate`, a new one. Returns the exit code."""

    async def work(client: redis.asyncio.Redis) -> int:
        secrets = Secrets(client)
        print((await (secrets.rotate(tenant) if rotate else secrets.current(tenant)))[0])
        return 0

    return _with_redis(data, work)


def _with_redis(data: Path, work: Work) -> int:
    try:
        return asyncio.run(_connected(redis_url(data), work))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        print(f"darkroom keys: {'.'.join(map(str, first['loc']))}: {first['msg']}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"darkroom keys: {error}", file=sys.stderr)
        return 2
    except (SettingsError, redis.RedisError, OSError) as error:
        remedy = f"start the service, set REDIS_URL, or name its data folder with --data (now {data})"
        print(f"darkroom keys: the service's Redis does not answer ({error}); {remedy}", file=sys.stderr)
        return 1


async def _connected(url: str, work: Work) -> int:
    async with redis.asyncio.Redis.from_url(url, decode_responses=True, socket_connect_timeout=2) as client:
        return await work(client)


def _table(infos: list[dict[str, Any]]) -> Table:
    columns = ("id", "tenant", "name", "scopes", "requests_per_minute", "jobs", "cost_per_minute")
    table = Table(*columns)
    for info in infos:
        cells = [" ".join(cell) if isinstance(cell, list) else str(cell or "") for cell in map(info.get, columns)]
        table.add_row(*map(escape, cells))
    return table


def redis_url(data: Path) -> str:
    """The configured Redis, else the embedded one of the data folder."""
    settings = settings_from_env()
    embedded = EmbeddedValkey(data.absolute())
    if "redis_url" not in settings.model_fields_set and embedded.socket.exists():
        return embedded.url
    return settings.redis_url.get_secret_value()
