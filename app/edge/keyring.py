"""API keys that operators hand out: made, listed and revoked in Redis, and known to every gateway within half a second.

A key reads `drk_<id>_<secret><checksum>`. Redis keeps its SHA-256; the key itself is shown once, by whoever made it.
Knows what a key may do, and whether one is needed: from the first one on, until an operator says otherwise. Refuses to
know requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import string
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import redis
import redis.asyncio
import structlog
from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages import patterns
from app.contract.messages.audit import Change
from app.contract.redis import keys
from app.contract.redis.scripts import source
from app.contract.redis.store import QueueLost
from app.edge.revocation import Revocation
from app.edge.single_flight import SingleFlight

log = structlog.get_logger()

Scope = Literal["read", "write"]
ADMIN: Final = "admin"
"""The scope of operators. With `read` it looks at everybody's jobs, with `write` it changes what is everybody's."""

KEY_PREFIX: Final = "drk_"
OPENED: Final = "open:"
"""How the version of the keys begins after `darkroom keys open`."""

ALPHABET: Final = string.digits + string.ascii_letters
ID_LENGTH: Final = 10
SECRET_LENGTH: Final = 32
"""Characters of 62: 190 bits."""

CHECKSUM_LENGTH: Final = 6
"""CRC-32 in base 62: a mistyped key is refused without asking Redis, and a scanner for leaked keys knows a real one."""

LOOK_SECONDS: Final = 0.4
"""How often a gateway looks whether keys have changed: a revocation holds everywhere within a second."""

_KEY = re.compile(
    rf"{KEY_PREFIX}([0-9a-z]{{{ID_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)
TENANT = re.compile(patterns.TENANT_NAME)
"""What a tenant may be called."""


class KeyInfo(BaseModel):
    """What is kept of a key. The limits are per minute, None for none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    tenant: str
    name: str = ""
    sha256: str
    scopes: tuple[Scope, ...] = ("read", "write")
    admin: bool = Field(
        default=False,
        description="It reads, or changes, what is everybody's. Not one of `scopes`: an earlier gateway that meets a"
        " word that it does not know there can read none of the keys",
    )
    requests_per_minute: int | None = Field(default=None, ge=1)
    jobs: int | None = Field(default=None, ge=1, description="Unfinished jobs of its tenant with which it adds none")
    cost_per_minute: int | None = Field(default=None, ge=1, description="Megapixel steps")
    created_ms: int

    @property
    def granted(self) -> tuple[str, ...]:
        """Every scope of the key."""
        return (*self.scopes, ADMIN) if self.admin else self.scopes


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key that is known to this process, and the event that tells of its revocation."""

    info: KeyInfo
    revoked: Revocation = field(default_factory=Revocation)


def new_key() -> tuple[str, str]:
    """A fresh (id, key)."""
    key_id = "".join(secrets.choice(string.digits + string.ascii_lowercase) for _ in range(ID_LENGTH))
    body = f"{KEY_PREFIX}{key_id}_" + "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    return key_id, body + _checksum(body)


def key_id_of(text: str) -> str | None:
    """The id in a key whose checksum is right, None for anything else."""
    found = _KEY.fullmatch(text)
    return found[1] if found and _checksum(text[:-CHECKSUM_LENGTH]) == found[3] else None


class Keyring:
    """Methods raise redis.RedisError while Redis is away, and QueueLost, which is one, where it has come back without
    the keys that were there. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        names = {"create": "key_create", "revoke": "key_revoke", "audit": "audit"}
        self._scripts = {verb: client.register_script(source(name)) for verb, name in names.items()}
        self._clock = clock
        self._held: dict[str, HeldKey] = {}
        self._ask_once = SingleFlight(self._ask)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was seen, as a restart does."""
        self._version: str | None = ""
        self._looked_at = float("-inf")
        self._needed = Revocation()

    async def create(
        self, tenant: str, *, change: Callable[[KeyInfo], Change] | None = None, **options: Any
    ) -> tuple[str, KeyInfo]:
        """A new key, whole for the only time, and what is kept of it. ValueError for a tenant that cannot be. `change`
        says what the audit has of it."""
        if not TENANT.fullmatch(tenant):
            raise ValueError("a tenant is 1 to 64 characters of a-z, 0-9, - and _, and begins with a letter or digit")
        key_id, key = new_key()
        created_ms = int((await self._redis.time())[0]) * 1000
        info = KeyInfo(id=key_id, tenant=tenant, sha256=_digest(key), created_ms=created_ms, **options)
        line = change(info).line() if change else ""
        await self._scripts["create"](args=[key_id, info.model_dump_json(), secrets.token_hex(8), line])
        return key, info

    async def revoke(self, key_id: str, *, change: Change | None = None) -> bool:
        """False if there is no such key. Keys are needed afterwards, also when it was the last."""
        # Asked apart: a client that repeats the change because its reply was lost finds nothing left to delete.
        if not await self._redis.hexists(keys.API_KEYS, key_id):
            return False
        await self._scripts["revoke"](args=[key_id, secrets.token_hex(8), change.line() if change else ""])
        return True

    async def open(self, *, change: Change | None = None) -> bool:
        """Say that nobody needs a key from now on. False, and nothing changes, while there are keys."""
        word = OPENED + secrets.token_hex(8)
        async with self._redis.pipeline() as pipeline:
            await pipeline.watch(keys.API_KEYS)
            if await pipeline.exists(keys.API_KEYS):
                return False
            pipeline.multi()
            pipeline.set(keys.API_KEYS_VERSION, word)
            if change is not None:
                await self._scripts["audit"](args=[change.line()], client=pipeline)
            try:
                await pipeline.execute()
            except redis.WatchError:
                # Somebody made a key in this moment, or the reply was lost: redis-py then says the same.
                return cast(bool, await self._redis.get(keys.API_KEYS_VERSION) == word)
        return True

    async def all(self) -> list[KeyInfo]:
        """Every key, the oldest first."""
        found = [KeyInfo.model_validate_json(text) for text in (await self._redis.hgetall(keys.API_KEYS)).values()]
        return sorted(found, key=lambda info: (info.created_ms, info.id))

    async def find(self, text: str) -> HeldKey | None:
        """The key, if it is one and is not revoked."""
        key_id = key_id_of(text)
        held = await self.held(key_id) if key_id else None
        return held if held and hmac.compare_digest(held.info.sha256, _digest(text)) else None

    async def held(self, key_id: str) -> HeldKey | None:
        """The key of this id, if it is not revoked."""
        if key_id not in self._held or self._is_stale():
            await self.look()
        return self._held.get(key_id)

    async def open_until(self) -> Revocation | None:
        """While nobody needs a key, the event that will end this; None where keys are needed."""
        if self._is_stale():
            await self.look()
        return None if self._needed.is_set() else self._needed

    async def look(self) -> None:
        """Learn what has changed. Whoever holds a key that is gone hears of it."""
        await self._ask_once()

    async def _ask(self) -> None:
        version = await self._redis.get(keys.API_KEYS_VERSION)
        if version is None and self._version:
            # No key was revoked: whoever holds one is to hear that the service is not well, and not that it is no key.
            raise QueueLost
        if version != self._version:
            found = {info.id: info for info in await self.all()}
            for key_id in self._held.keys() - found.keys():
                self._held.pop(key_id).revoked.set()
            for key_id in found.keys() - self._held.keys():
                self._held[key_id] = HeldKey(found[key_id])
            self._version = version
            self._judge(version)
        self._looked_at = self._clock()

    def _judge(self, version: str | None) -> None:
        """Whether keys are needed. A Redis that has forgotten that opens nothing, see `_ask`."""
        if self._held or (version is not None and not version.startswith(OPENED)):
            self._needed.set()
        elif version is not None and self._needed.is_set():
            self._needed = Revocation()

    async def keep_looking(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except redis.RedisError:
                log.debug("keys could not be looked at")
            await asyncio.sleep(LOOK_SECONDS)

    def _is_stale(self) -> bool:
        return self._clock() - self._looked_at > 2 * LOOK_SECONDS


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
