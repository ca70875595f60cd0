"""Which Redis URLs can work: judged in one place, so that every process refuses the same ones with the same sentence.

Knows spelling. Refuses to know whether anybody answers there, and never repeats the URL: it may hold a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit

import redis
from pydantic import AfterValidator, SecretStr

SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""Each with the scheme of the servers that the sentinels watch: with TLS for both, or for neither."""

SENTINEL_PORT = 26_379

EXAMPLE = "write redis://host:6379/0, rediss:// for TLS, or unix:///path/to/socket"
SENTINEL_EXAMPLE = "write redis+sentinel://host:26379,host2:26379/service/0"
ESCAPE = "a password is written with / as %2F, # as %23, ? as %3F and @ as %40"

NO_OPTIONS = frozenset({"decode_responses", "encoding", "encoding_errors", "connection_class"})
"""What a client of ours decides for itself: redis-py lets the URL have the last word."""


_DATABASE = re.compile(r"(/[0-9]{0,9})?")
_SENTINEL = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?")
_SERVICE = re.compile(r"/(?P<service>[A-Za-z0-9_.-]+)(?P<database>/[0-9]{0,9})?")


@dataclass(frozen=True, slots=True)
class Watched:
    """A primary that sentinels know by the name of its service."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    server: str
    """URL of the primary but for its address: user, password, database and options, with a host that is none."""
    login: dict[str, str]
    """`username` and `password` for the sentinels themselves."""
    has_tls: bool


def read_watched(url: str) -> Watched | None:
    """What a redis+sentinel:// URL names; None for a URL of a server itself. Raises ValueError with the remedy.

    `sentinel_username` and `sentinel_password` behind the ? are for the sentinels, all else is for the primary.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SENTINEL_SCHEMES:
        return None
    place, _, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    user, at, hosts = authority.rpartition("@")
    named = _SERVICE.fullmatch(slash + path)
    found = [_SENTINEL.fullmatch(host) for host in hosts.split(",")]
    if named is None or not all(found):
        raise ValueError(f"names no sentinels and their service; {SENTINEL_EXAMPLE}; {ESCAPE}")
    sentinels = [(each["host"].strip("[]"), int(each["port"] or SENTINEL_PORT)) for each in found if each]
    if any(not 0 < port < 65_536 for _, port in sentinels):
        raise ValueError(f"names a port that there is not; {SENTINEL_EXAMPLE}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    given = [name for name in ("username", "password") if f"sentinel_{name}" in options]
    login = {name: options.pop(f"sentinel_{name}") for name in given}
    server = f"{SENTINEL_SCHEMES[scheme]}://{user}{at}primary.invalid{named['database'] or ''}?{urlencode(options)}"
    return Watched(tuple(sentinels), named["service"], server, login, has_tls=scheme == "rediss+sentinel")


def require_redis_url(url: str) -> str:
    """`url`, if redis-py can make a connection of it; dials nothing. ValueError with the remedy."""
    if "#" in url:
        raise ValueError(f"holds a #, where the rest would be ignored; {ESCAPE}")
    watched = read_watched(url)
    _require_server(watched.server if watched else url)
    return url


def _require_server(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"cannot be read as a URL; {EXAMPLE}") from None
    # urlsplit lowers the scheme, redis-py does not.
    if url.partition("://")[0] not in SCHEMES:
        raise ValueError(_wrong_scheme(parts.scheme))
    _require_place(parts)
    if taken := NO_OPTIONS & parse_qs(parts.query, keep_blank_values=True).keys():
        raise ValueError(f"must not set {', '.join(sorted(taken))}: Darkroom decides that itself")
    try:
        redis.ConnectionPool.from_url(url).make_connection()
    except (ValueError, TypeError, redis.RedisError):
        # Their sentences quote what they could not read, which may be half of a password.
        raise ValueError(f"cannot be used: its port or an option behind ? is wrong; {EXAMPLE}; {ESCAPE}") from None


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
        return f"asks sentinels in words of another program; {SENTINEL_EXAMPLE}"
    return f"is no URL of a Redis; {EXAMPLE}"


def _judged(url: SecretStr) -> SecretStr:
    require_redis_url(url.get_secret_value())
    return url


RedisUrl = Annotated[SecretStr, AfterValidator(_judged)]
"""The type of a setting that names the queue's Redis."""
