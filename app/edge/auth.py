"""From an Authorization header to a caller.

Knows keys only by their SHA-256, and which scope a method needs. Refuses to know routes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.edge.errors import Forbidden, Unauthenticated
from app.edge.keyring import ADMIN, KEY_PREFIX, TENANT, HeldKey, Keyring
from app.edge.revocation import Revocation

SHORTEST_API_KEY = 32
"""Characters. Random hexadecimal of this length has 128 bits, base64 has 192."""

OPEN_TENANT = "default"
SCOPES = frozenset({"read", "write"})
"""What a caller may do with jobs of its own."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Keys = Mapping[bytes, str]
"""SHA-256 of a key to the tenant it belongs to."""

_KEY_HEADER = re.compile(r"(?:bearer|token) +([!-~]{1,512}) *", re.IGNORECASE)
"""`Token` is what Replicate's clients sent before they changed to Bearer."""

_BASIC_HEADER = re.compile(r"basic +([A-Za-z0-9+/]{1,2048}={0,2}) *", re.IGNORECASE)
_KEY = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what the key allows. Jobs belong to the tenant."""

    tenant: str
    key_id: str = ""
    scopes: frozenset[str] = SCOPES
    requests_per_minute: int | None = None
    jobs: int | None = None
    cost_per_minute: int | None = None
    revoked: Revocation | None = None
    """Set when the key is revoked, or when one is needed by somebody who has none: whatever is open for it ends."""

    @property
    def may_read(self) -> bool:
        """Whether the key opens what is there to be looked at."""
        return "read" in self.scopes

    def require(self, method: str) -> None:
        """Raises Forbidden if the key's scopes do not allow a request of this method."""
        scope = "read" if method in SAFE_METHODS else "write"
        self._require(scope)

    def require_all(self) -> None:
        """Raises Forbidden if the key lacks any scope. For what is secret: who may only look must not learn it."""
        for scope in sorted(SCOPES):
            self._require(scope)

    def require_admin(self) -> None:
        """Raises Forbidden for whoever is no operator. What else it needs, to read or to write, the guard has asked."""
        if not self.key_id and ADMIN not in self.scopes:
            raise Forbidden(
                "This is the operator's: send as the key what `darkroom up` keeps in operator.token in its data folder "
                "(in a terminal: --data FOLDER). Or `darkroom keys create NAME --scope admin` makes a key; from the "
                "first one on everybody needs one."
            )
        self._require(ADMIN)

    def _require(self, scope: str) -> None:
        if scope not in self.scopes:
            raise Forbidden(f"This key does not have the scope {scope!r}.")


class Authenticator:
    """From a header to a caller. Configured keys need no Redis; `keyring` holds those that operators handed out.

    As long as there never was one of either, everybody is one tenant, whatever the header says, so that clients that
    insist on sending some key work; unless `required`, or the key is one of ours. That this only happens on loopback is
    the settings' affair. Where a request came from says little: proxies are on loopback too. So who shall be the
    operator among such visitors sends `operator_token`.
    """

    def __init__(self, keys: Keys, *, required: bool = False, operator_token: str | None = None) -> None:
        self._keys = keys
        self._required = required
        self._operator = _digest(operator_token) if operator_token else None
        self.keyring: Keyring | None = None

    async def authenticate(self, header: str | None) -> Caller:
        """Raises Unauthenticated, and redis.RedisError if Redis must be asked and is away."""
        key = key_of(header or "")
        caller = await self._holder(key) if key else None
        if caller is not None:
            return caller
        is_ours = key is not None and key.startswith(KEY_PREFIX)
        visitor = None if is_ours else await self._visitor()
        if visitor is not None:
            return replace(visitor, scopes=SCOPES | {ADMIN}) if key and self._is_operators(key) else visitor
        if key is None:
            raise Unauthenticated("Send your key in the header: Authorization: Bearer <key>.")
        raise Unauthenticated("The key is not known here: check that it is whole and has not been revoked.")

    async def _visitor(self) -> Caller | None:
        """Whoever comes without a key, where none is needed."""
        if self._keys or self._required:
            return None
        if self.keyring is None:
            return Caller(OPEN_TENANT)
        until = await self.keyring.open_until()
        return Caller(OPEN_TENANT, revoked=until) if until else None

    def _is_operators(self, key: str) -> bool:
        return self._operator is not None and hmac.compare_digest(self._operator, _digest(key))

    async def of_key(self, key_id: str) -> Caller | None:
        """Who holds the key of this id, if it is still good. "" is whoever needs none."""
        if not key_id:
            return await self._visitor()
        for digest, tenant in self._keys.items():
            if _id_of(digest) == key_id:
                return Caller(tenant, key_id=key_id)
        held = await self.keyring.held(key_id) if self.keyring else None
        return _caller(held) if held else None

    async def _holder(self, key: str) -> Caller | None:
        digest, caller = _digest(key), None
        for known, tenant in self._keys.items():
            if hmac.compare_digest(known, digest):
                caller = Caller(tenant, key_id=_id_of(digest))
        if caller is not None or self.keyring is None:
            return caller
        held = await self.keyring.find(key)
        return _caller(held) if held else None


def key_of(header: str) -> str | None:
    """The key in an Authorization header, None if there is none. With Basic (RFC 7617) it is the password of any user,
    or all of it where there is no colon: it is what clients of AUTOMATIC1111's web UI send.

    Basic is taken, and never asked for: browsers would open a login, keep what was typed, and send it along with what
    other sites' pages ask for.
    """
    found = _KEY_HEADER.fullmatch(header)
    if found:
        return found[1]
    basic = _BASIC_HEADER.fullmatch(header)
    if basic is None:
        return None
    try:
        user, colon, password = base64.b64decode(basic[1], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    key = password if colon else user
    return key if _KEY.fullmatch(key) else None


def _caller(held: HeldKey) -> Caller:
    info = held.info
    return Caller(
        tenant=info.tenant,
        key_id=info.id,
        scopes=frozenset(info.granted),
        requests_per_minute=info.requests_per_minute,
        jobs=info.jobs,
        cost_per_minute=info.cost_per_minute,
        revoked=held.revoked,
    )


def keys_from_text(text: str) -> Keys:
    """Reads `tenant:key,tenant2:key2`. A tenant may have several keys. ValueError names the entry by its place."""
    keys: dict[bytes, str] = {}
    for place, entry in enumerate(text.split(","), start=1):
        tenant, colon, key = entry.strip().partition(":")
        if not colon or not TENANT.fullmatch(tenant):
            raise ValueError(f"entry {place} must read tenant:key, the tenant in a-z, 0-9, - and _")
        if not is_key(key):
            raise ValueError(f"the key of entry {place} must be {SHORTEST_API_KEY} to 512 visible ASCII characters")
        if keys.setdefault(_digest(key), tenant) != tenant:
            raise ValueError(f"the key of entry {place} belongs to another tenant already")
    return keys


def is_key(text: str) -> bool:
    """Long enough, and of characters that a header takes."""
    return len(text) >= SHORTEST_API_KEY and _KEY.fullmatch(text) is not None


def is_operator_token(text: str) -> bool:
    """Such a key, and none that begins as those that we make: they are looked for among the keys alone."""
    return is_key(text) and not text.startswith(KEY_PREFIX)


def _id_of(digest: bytes) -> str:
    return digest.hex()[:16]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
