"""`darkroom keys`: the secrets a tenant needs, read from the service's own Redis. For operators on its machine."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from pydantic import ValidationError

from app.cli.embedded import EmbeddedValkey, NoServer
from app.cli.exits import REFUSED, UNREACHABLE
from app.cli.plain import plain
from app.cli.tables import print_table
from app.contract.common.environment import SettingsError
from app.contract.messages.audit import Change, Operator
from app.contract.redis import clients
from app.contract.redis.webhook_secrets import Secrets
from app.edge.auth import OPEN_TENANT
from app.edge.keyring import KeyInfo, Keyring
from app.settings import settings_from_env

LAST_ONE = (
    "it was the last: keys stay needed, and nobody gets in; `darkroom keys create` makes another, "
    "`darkroom keys open` serves this machine without keys again"
)

NONE_NEEDED = "no key is needed on this machine, except by gateways with DARKROOM_REQUIRE_KEYS or DARKROOM_API_KEYS"
OPENED = f"open: {NONE_NEEDED}; the next `darkroom keys create` ends this"
STILL_NEEDED = "one is needed all the same: `darkroom keys create` makes one, `darkroom keys open` ends that"

Work = Callable[[redis.asyncio.Redis], Awaitable[int]]
"""What a command does with the service's Redis. Returns the exit code."""


def create(tenant: str, *, data: Path, as_json: bool, **options: Any) -> int:
    """Make a key for a tenant and print it: nobody can show it again. `options` are the fields of KeyInfo."""

    async def work(client: redis.asyncio.Redis) -> int:
        keyring = Keyring(client)
        was_open = await keyring.open_until() is not None
        key, info = await keyring.create(tenant, change=_made, **options)
        try:
            print(json.dumps({"key": key, **_shown(info)}) if as_json else key, flush=True)
        except OSError:
            await _undo(keyring, info, reopen=was_open)
            raise
        print(f"key {info.id} of {info.tenant}: keep it, it is not shown again", file=sys.stderr)
        if was_open:
            print(_closed_by(info), file=sys.stderr)
        return 0

    return with_redis("keys", data, work)


def show(*, data: Path, as_json: bool) -> int:
    """Print every key that was not revoked, without the keys themselves."""

    async def work(client: redis.asyncio.Redis) -> int:
        keyring = Keyring(client)
        infos = [_shown(info) for info in await keyring.all()]
        if as_json:
            print(json.dumps({"object": "list", "data": infos}))
        elif infos:
            _print(infos)
        else:
            needed = STILL_NEEDED if await keyring.open_until() is None else NONE_NEEDED
            print(f"no keys; {needed}", file=sys.stderr)
        return 0

    return with_redis("keys", data, work)


def revoke(given: str, *, data: Path) -> int:
    """End a key, everywhere within a second; what is open for it ends too. `given` is its id, or a name or tenant that
    no other key has."""

    async def work(client: redis.asyncio.Redis) -> int:
        keyring = Keyring(client)
        found = _meant(given, await keyring.all())
        if len(found) > 1:
            print(
                f"darkroom keys: {plain(given, 64)} may be {', '.join(map(_told, found))}; say which id",
                file=sys.stderr,
            )
            return REFUSED
        if not found or not await keyring.revoke(found[0].id, change=_revoked(found[0].id)):
            print("darkroom keys: there is no such key; `darkroom keys list` shows the ids", file=sys.stderr)
            return REFUSED
        print(f"key {found[0].id} is revoked")
        if not await keyring.all():
            print(LAST_ONE, file=sys.stderr)
        return 0

    return with_redis("keys", data, work)


def open_again(*, data: Path) -> int:
    """Let everybody in without a key, within a second. Refused while there are keys. Returns the exit code."""

    async def work(client: redis.asyncio.Redis) -> int:
        if await Keyring(client).open(change=_OPEN):
            print(OPENED)
            return 0
        print("darkroom keys: there are keys; `darkroom keys revoke` ends them, and then this opens", file=sys.stderr)
        return REFUSED

    return with_redis("keys", data, work)


def webhook_secret(tenant: str, *, rotate: bool, data: Path, as_json: bool) -> int:
    """Print the secret that signs the tenant's webhooks; with `rotate`, a new one. Returns the exit code."""

    async def work(client: redis.asyncio.Redis) -> int:
        secrets = Secrets(client)
        change = Change.by(Operator(), "keys webhook-secret", tenant, "a new one")
        secret = (await (secrets.rotate(tenant, change=change) if rotate else secrets.current(tenant)))[0]
        print(json.dumps({"tenant": tenant, "secret": secret}) if as_json else secret)
        return 0

    return with_redis("keys", data, work)


def with_redis(command: str, data: Path, work: Work) -> int:
    """Do the work with the service's own Redis, and say what went wrong in one line. Returns the exit code."""
    try:
        url = redis_url(data)
    except OSError as error:
        return _not_reached(command, data, error)
    except (SettingsError, NoServer) as error:
        print(f"darkroom {command}: {error}", file=sys.stderr)
        return REFUSED
    try:
        return asyncio.run(_connected(url, work))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        print(f"darkroom {command}: {'.'.join(map(str, first['loc']))}: {first['msg']}", file=sys.stderr)
        return REFUSED
    except ValueError as error:
        print(f"darkroom {command}: {error}", file=sys.stderr)
        return REFUSED
    except redis.RedisError as error:
        return _not_reached(command, data, error)


def _not_reached(command: str, data: Path, error: Exception) -> int:
    if isinstance(error, redis.ResponseError):
        # What a pipeline says begins with the command that failed, whose values are nobody's to read; what a script
        # says ends with its hash and a line of it.
        said = str(error).rpartition("caused error: ")[2].strip("(',\")").partition(" script: ")[0]
        print(f"darkroom {command}: the service's Redis refuses it: {said}", file=sys.stderr)
        return UNREACHABLE
    remedy = f"start the service, set REDIS_URL, or name its data folder with --data (now {data})"
    print(f"darkroom {command}: the service's Redis does not answer ({error}); {remedy}", file=sys.stderr)
    return UNREACHABLE


async def _connected(url: str, work: Work) -> int:
    async with clients.async_client(url, decode_responses=True, socket_connect_timeout=2) as client:
        return await work(client)


def _closed_by(first: KeyInfo) -> str:
    """What the first key means for everybody else, and what undoes it."""
    owner = f"; pictures drawn without one are the tenant {OPEN_TENANT}'s, who needs a key of its own to see them"
    remains = "" if first.tenant == OPEN_TENANT else owner
    undone = f"`darkroom keys revoke {first.id}`, then `darkroom keys open`, undoes it"
    return f"it is the first: from now on everybody needs a key, also on the page{remains}; {undone}"


def _meant(given: str, infos: Sequence[KeyInfo]) -> list[KeyInfo]:
    """The key of this id, else all that are called so."""
    by_id = [info for info in infos if info.id == given]
    return by_id or [info for info in infos if given and given in (info.name, info.tenant)]


def _told(info: KeyInfo) -> str:
    """A key among others, in a sentence."""
    return f"{info.id} (of {info.tenant}{f', {plain(info.name, 30)}' if info.name else ''})"


async def _undo(keyring: Keyring, info: KeyInfo, *, reopen: bool) -> None:
    """Nobody has seen the key, and the service may have closed by it."""
    await keyring.revoke(info.id, change=_revoked(info.id))
    if reopen:
        await keyring.open(change=_OPEN)
    print(f"key {info.id} is revoked again, for nobody was shown it", file=sys.stderr)


_OPEN = Change.by(Operator(), "keys open", "service", "no key is needed")


def _revoked(key_id: str) -> Change:
    return Change.by(Operator(), "keys revoke", key_id, "revoked")


def _made(info: KeyInfo) -> Change:
    """What the audit says of a new key: all that whoever made it has typed in."""
    limits = {
        "requests_per_minute": info.requests_per_minute,
        "jobs": info.jobs,
        "cost_per_minute": info.cost_per_minute,
    }
    told = [f"{name} {limit}" for name, limit in limits.items() if limit is not None]
    named = f" ({plain(info.name, 60)})" if info.name else ""
    outcome = f"for {info.tenant}{named}: {', '.join([*info.granted, *told])}"
    return Change.by(Operator(), "keys create", info.id, outcome)


def _shown(info: KeyInfo) -> dict[str, Any]:
    return info.model_dump(mode="json", exclude={"sha256", "admin"}) | {"scopes": [*info.granted]}


def _print(infos: list[dict[str, Any]]) -> None:
    columns = ("id", "tenant", "name", "scopes", "requests_per_minute", "jobs", "cost_per_minute")
    rows = [
        [" ".join(cell) if isinstance(cell, list) else str(cell or "") for cell in map(info.get, columns)]
        for info in infos
    ]
    print_table(columns, rows)


def redis_url(data: Path) -> str:
    """The configured Redis, else the embedded one of the data folder. Raises NoServer for a stranger in its place."""
    settings = settings_from_env()
    embedded = EmbeddedValkey(data.absolute())
    if "redis_url" not in settings.model_fields_set and embedded.socket.exists():
        embedded.require_own()
        return embedded.url
    return settings.redis_url.get_secret_value()
