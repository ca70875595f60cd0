"""Links to pictures that this gateway signs, because a folder cannot: a path, when it ends, and an HMAC of both.

Knows keys of objects and a secret. Refuses to know who may see a picture: a link is proof enough.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from urllib.parse import urlencode

from app.contract.objects.names import parse_key
from app.pictures.errors import SignatureExpired, SignatureInvalid

LONGEST_LINK = 3600
"""Seconds a link may live unless the operator says otherwise: it works for whoever holds it."""

LONGEST_SIGNED = 7 * 24 * 3600
"""Seconds. S3 and its kind sign for no longer (Signature Version 4)."""

SHORTEST_KEY = 32
"""Bytes of the secret that links are signed with."""

CLOCKS_DIFFER_SECONDS = 60
"""Between two gateways. A link that lives longer than it could was made by a clock that has gone back since."""

_EXPIRES = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)


class LinkSigner:
    """Signs with `signing_key`, and accepts what it or one of the `accepted` keys signed: a former one while its links
    live, or the next one before every gateway signs with it. ValueError for a key that is too short."""

    def __init__(self, signing_key: bytes, *, accepted: Sequence[bytes] = (), longest_link: int = LONGEST_LINK) -> None:
        self._keys = (signing_key, *accepted)
        if (shortest := min(map(len, self._keys))) < SHORTEST_KEY:
            raise ValueError(f"a signing key has {shortest} bytes; give it {SHORTEST_KEY} random ones or more")
        self._longest_link = longest_link

    def path(self, key: str, *, expires_in: int, now: float) -> str:
        """`/pictures/<key>?expires=<seconds since 1970>&signature=<hex>` for `verify` to accept until then.

        `expires_in` is 1 to `longest_link` seconds. ValueError for a key of no picture.
        """
        parse_key(key)
        expires = int(now) + self.lifetime(expires_in)
        return f"/pictures/{key}?" + urlencode(
            {"expires": expires, "signature": _signature(self._keys[0], key, expires)}
        )

    def lifetime(self, seconds: int) -> int:
        """`seconds`, if a link may live for so long. ValueError otherwise."""
        if not 1 <= seconds <= self._longest_link:
            raise ValueError(f"a link lives 1 to {self._longest_link} seconds, not {seconds}")
        return seconds

    def verify(self, key: str, *, expires: str, signature: str, now: float) -> None:
        """Accepts what `path` made, while it is young. SignatureInvalid or SignatureExpired otherwise."""
        if not _EXPIRES.fullmatch(expires):
            raise SignatureInvalid("the link is not one of ours")
        given = signature.encode("utf-8", "replace")
        expected = [_signature(each, key, int(expires)).encode() for each in self._keys]
        if not any(hmac.compare_digest(each, given) for each in expected):
            raise SignatureInvalid("the link is not one of ours")
        if now >= int(expires):
            raise SignatureExpired("the link's time is over: ask for the job again to get a new one")
        if int(expires) - now > self._longest_link + CLOCKS_DIFFER_SECONDS:
            raise SignatureInvalid("the link would live longer than links may: a clock went back, or a setting changed")


def _signature(signing_key: bytes, key: str, expires: int) -> str:
    message = f"darkroom picture v1\n{key}\n{expires}".encode("utf-8", "replace")
    return hmac.new(signing_key, message, hashlib.sha256).hexdigest()
