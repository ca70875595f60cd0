"""Clients of the Redis that a URL names: the one place where any process of the service makes one.

Knows what a URL may say, and that behind sentinels the primary is asked for again at each new connection. Refuses to
know timeouts, pools and what is asked: those come in with the call.
"""

from __future__ import annotations

from typing import Any, TypeVar

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.contract.redis.durability import cluster_fault
from app.contract.redis.url import Watched, read_watched

P = TypeVar("P", bound=redis.asyncio.ConnectionPool)

SENTINEL_SECONDS = 1.0
"""For a sentinel's answer. One that is away costs each new connection so much, until another has answered first."""


def client(url: str, **options: Any) -> redis.Redis:
    """A blocking client; `options` are redis-py's. Dials nothing yet."""
    watched = read_watched(url)
    if watched is None:
        return redis.Redis.from_url(url, **options)
    managed = redis.sentinel.SentinelManagedConnection
    if watched.has_tls:
        managed = redis.sentinel.SentinelManagedSSLConnection
    own = _options_of(watched)
    pool = redis.ConnectionPool(connection_class=managed, connection_pool=Primary(watched), **{**options, **own})
    return redis.Redis.from_pool(pool)


def async_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """The same for asyncio, with a pool of its own."""
    return redis.asyncio.Redis.from_pool(async_pool(url, redis.asyncio.ConnectionPool, **options))


def async_pool(url: str, kind: type[P], **options: Any) -> P:
    """A pool of this kind; `options` are its own and redis-py's. Dials nothing yet."""
    watched = read_watched(url)
    if watched is None:
        return kind.from_url(url, **options)
    managed = redis.asyncio.sentinel.SentinelManagedConnection
    if watched.has_tls:
        managed = redis.asyncio.sentinel.SentinelManagedSSLConnection
    own = _options_of(watched)
    return kind(connection_class=managed, connection_pool=AsyncPrimary(watched), **{**options, **own})


def why_refused(url: str) -> str | None:
    """Asked at the start: why the server there can never be the queue, as one sentence. None as well while it is away:
    then each process waits for it in its own way."""
    try:
        with client(url, socket_connect_timeout=2, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as asking:
            info: Any = asking.info("cluster")
            return cluster_fault(info)
    except redis.RedisError:
        return None


def _options_of(watched: Watched) -> dict[str, Any]:
    """What a URL says of its server but for where it is, which the sentinels know."""
    said: dict[str, Any] = redis.connection.parse_url(watched.server)  # type: ignore[no-untyped-call]
    return {name: value for name, value in said.items() if name not in ("host", "port", "connection_class")}


class Primary:
    """Where the primary of a service is, asked anew for each connection.

    redis-py's connections call this their pool. They need no pool of redis-py's Sentinel, whose callers do not queue.
    """

    is_master = True
    check_connection = False

    def __init__(self, watched: Watched) -> None:
        self.service_name = watched.service
        self._watched = watched
        own = _asking(watched) | {"retry": Retry(NoBackoff(), 0)}
        self._sentinel: Any = redis.sentinel.Sentinel(watched.sentinels, sentinel_kwargs=own)  # type: ignore[no-untyped-call]

    def get_master_address(self) -> tuple[str, int]:
        """Host and port. Raises redis.ConnectionError while no sentinel knows a primary that is up."""
        try:
            host, port = self._sentinel.discover_master(self.service_name)
        except redis.sentinel.MasterNotFoundError as error:
            raise _unknown(self._watched) from error
        finally:
            for each in list(self._sentinel.sentinels):
                each.connection_pool.disconnect(inuse_connections=False)
        return str(host), int(port)


class AsyncPrimary:
    """The same for asyncio."""

    is_master = True
    check_connection = False

    def __init__(self, watched: Watched) -> None:
        self.service_name = watched.service
        self._watched = watched
        own = _asking(watched) | {"retry": AsyncRetry(NoBackoff(), 0)}
        self._sentinel: Any = redis.asyncio.sentinel.Sentinel(watched.sentinels, sentinel_kwargs=own)  # type: ignore[no-untyped-call]

    async def get_master_address(self) -> tuple[str, int]:
        """Host and port. Raises redis.ConnectionError while no sentinel knows a primary that is up."""
        try:
            host, port = await self._sentinel.discover_master(self.service_name)
        except redis.asyncio.sentinel.MasterNotFoundError as error:
            raise _unknown(self._watched) from error
        finally:
            for each in list(self._sentinel.sentinels):
                await each.connection_pool.disconnect(inuse_connections=False)
        return str(host), int(port)


def _unknown(watched: Watched) -> redis.ConnectionError:
    """In the place of redis-py's, which shows the clients that asked with all their options."""
    asked = ", ".join(f"{host}:{port}" for host, port in watched.sentinels)
    said = f"of the sentinels {asked} none that answers knows a primary {watched.service!r} that is up"
    return redis.ConnectionError(said)


def _asking(watched: Watched) -> dict[str, Any]:
    # Whom a primary's certificate is judged by, a sentinel's is as well.
    tls = {name: value for name, value in _options_of(watched).items() if name.startswith("ssl_")}
    limits = {"socket_timeout": SENTINEL_SECONDS, "socket_connect_timeout": SENTINEL_SECONDS}
    return {**limits, **watched.login, "ssl": watched.has_tls, **(tls if watched.has_tls else {})}
