"""Which Redis URLs can work: judged in one place, so that every process refuses the same ones with the same sentence.

Knows spelling. Refuses to know whether anybody answers there, and never repeats the URL: it may hold a password.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import SplitResult, parse_qs, urlsplit

import redis
from pydantic import AfterValidator, SecretStr

SCHEMES = ("redis", "rediss", "unix")

EXAMPLE = "write redis://host:6379/0, rediss:// for TLS, or unix:///path/to/socket"
ESCAPE = "a password is written with / as %2F, # as %23, ? as %3F and @ as %40"

NO_OPTIONS = frozenset({"decode_responses", "encoding", "encoding_errors", "connection_class"})
"""What a client of ours decides for itself: redis-py lets the URL have the last word."""


_DATABASE = re.compile(r"(/[0-9]{0,9})?")


def require_redis_url(url: str) -> str:
    """`url`, if redis-py can make a connection of it; dials nothing. ValueError with the remedy."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"cannot be read as a URL; {EXAMPLE}") from None
    # urlsplit lowers the scheme, redis-py does not.
    if url.partition("://")[0] not in SCHEMES:
        raise ValueError(_wrong_scheme(parts.scheme))
    if parts.fragment or "#" in url:
        raise ValueError(f"holds a #, where the rest would be ignored; {ESCAPE}")
    _require_place(parts)
    if taken := NO_OPTIONS & parse_qs(parts.query, keep_blank_values=True).keys():
        raise ValueError(f"must not set {', '.join(sorted(taken))}: Darkroom decides that itself")
    try:
        redis.ConnectionPool.from_url(url).make_connection()
    except (ValueError, TypeError, redis.RedisError):
        # Their sentences quote what they could not read, which may be half of a password.
        raise ValueError(f"cannot be used: its port or an option behind ? is wrong; {EXAMPLE}; {ESCAPE}") from None
    return url


def _require_place(parts: SplitResult) -> None:
    if parts.scheme == "unix":
        if len(parts.path) < 2:
            raise ValueError("names no socket; write unix:///path/to/socket")
    elif not _DATABASE.fullmatch(parts.path):
        raise ValueError(f"must end in the number of a database, or in nothing; {EXAMPLE}; {ESCAPE}")


def _wrong_scheme(scheme: str) -> str:
    if "cluster" in scheme:
        return f"Redis Cluster is not supported, as the queue's keys change together: name one primary; {EXAMPLE}"
    if "sentinel" in scheme:
        return f"Sentinel is not supported: name the primary itself, or a proxy that follows it; {EXAMPLE}"
    return f"is no URL of a Redis; {EXAMPLE}"


def _judged(url: SecretStr) -> SecretStr:
    require_redis_url(url.get_secret_value())
    return url


RedisUrl = Annotated[SecretStr, AfterValidator(_judged)]
"""The type of a setting that names the queue's Redis."""
