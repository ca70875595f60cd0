"""From an Authorization header to a caller.

Knows keys only by their SHA-256. Refuses to know routes, limits and what a caller may do.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from app.errors import Unauthenticated

SHORTEST_API_KEY = 32
"""Characters. Random hexadecimal of this length has 128 bits, base64 has 192."""

OPEN_TENANT = "default"

Keys = Mapping[bytes, str]
"""SHA-256 of a key to the tenant it belongs to."""

_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_BEARER = re.compile(r"bearer +([!-~]{1,512}) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Jobs belong to the tenant."""

    tenant: str


class Authenticator(Protocol):
    """What the guard needs. Raises Unauthenticated."""

    async def authenticate(self, header: str | None) -> Caller: ...


class OpenHouse:
    """No keys configured: every caller is the same tenant, whatever the header says.

    Clients that insist on sending some key work with it; that it only listens on loopback is the settings' affair.
    """

    async def authenticate(self, header: str | None) -> Caller:
        return Caller(OPEN_TENANT)


class ConfiguredKeys:
    """Keys given by a setting."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def authenticate(self, header: str | None) -> Caller:
        """The tenant whose key the header bears. Every key is compared, in constant time."""
        found = _BEARER.fullmatch(header or "")
        if found is None:
            raise Unauthenticated("Send your key in the header: Authorization: Bearer <key>.")
        digest, tenant = _digest(found[1]), None
        for known, name in self._keys.items():
            if hmac.compare_digest(known, digest):
                tenant = name
        if tenant is None:
            raise Unauthenticated("The key is not known here: check that it is whole and has not been revoked.")
        return Caller(tenant)


def authenticator_for(keys: Keys) -> Authenticator:
    """The open house where there are no keys."""
    return ConfiguredKeys(keys) if keys else OpenHouse()


def keys_from_text(text: str) -> Keys:
    """Reads `tenant:key,tenant2:key2`. A tenant may have several keys. ValueError names the entry by its place."""
    keys: dict[bytes, str] = {}
    for place, entry in enumerate(text.split(","), start=1):
        tenant, colon, key = entry.strip().partition(":")
        if not colon or not _TENANT.fullmatch(tenant):
            raise ValueError(f"entry {place} must read tenant:key, the tenant in a-z, 0-9, - and _")
        if len(key) < SHORTEST_API_KEY or not _BEARER.fullmatch(f"bearer {key}"):
            raise ValueError(f"the key of entry {place} must be {SHORTEST_API_KEY} to 512 visible ASCII characters")
        if keys.setdefault(_digest(key), tenant) != tenant:
            raise ValueError(f"the key of entry {place} belongs to another tenant already")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
