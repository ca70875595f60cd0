"""Opens connections for deliveries: a name is resolved once, every answer is judged, and a judged address is dialled.

A network backend under httpcore2's pool, so that TLS still asks for the name (SNI) and HTTP still says it (Host). It
knows no URL and no proxy: environment variables have no say in where a webhook goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable

import httpcore2
from httpcore2 import AsyncNetworkBackend, AsyncNetworkStream

from app.outbound.address import Address, Network, WebhookRefused, check_address

Resolver = Callable[[str, int], Awaitable[list[str]]]

CONNECT_SECONDS = 4.0
"""For one address; a name with a dead first address still reaches its second within a try."""


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host in the order the system prefers them. Raises OSError.

    Each name has a thread of its own, because getaddrinfo cannot be cancelled: in a pool, names with a slow DNS server
    would hold up all others, and the exit of the process too.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str], error: OSError | None) -> None:
        if answer.done():
            return
        if error:
            answer.set_exception(error)
        else:
            answer.set_result(found)

    def ask() -> None:
        found: list[str] = []
        error = None
        try:
            found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except OSError as problem:
            error = problem
        except UnicodeError as problem:
            error = OSError(str(problem))
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    return await answer


def is_own(address: Address) -> bool:
    """Does this machine hold the address? The kernel then answers from it; a UDP connect sends nothing."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(probe.getsockname()[0] == str(address))
    except OSError:
        return False


class GuardedBackend(AsyncNetworkBackend):
    """Dials judged addresses only. `connect_tcp` raises WebhookRefused, or httpcore2's connect errors."""

    def __init__(
        self,
        *,
        allow_cidrs: Collection[Network] = (),
        resolver: Resolver = resolve,
        own: Callable[[Address], bool] = is_own,
        inner: AsyncNetworkBackend | None = None,
    ) -> None:
        self._allow_cidrs = allow_cidrs
        self._resolver = resolver
        self._own = own
        self._inner = inner or httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the base class has it)
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for address in await self._judged(host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout=CONNECT_SECONDS, local_address=local_address, socket_options=socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as problem:
                failure = problem
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 (the base class has it)
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        raise WebhookRefused("Webhooks do not go to unix sockets.")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _judged(self, host: str, port: int) -> list[str]:
        """Every address of the host, once. One that is denied denies them all: the others may be bait."""
        try:
            found = await self._resolver(host, port)
        except OSError:
            raise httpcore2.ConnectError("the name was not resolved") from None
        addresses = [check_address(text, allow_cidrs=self._allow_cidrs) for text in dict.fromkeys(found)]
        if any(self._is_ours(address) for address in addresses):
            raise WebhookRefused("The host is or resolves to an address of this service.")
        return [str(address) for address in addresses]

    def _is_ours(self, address: Address) -> bool:
        opened = any(address in network for network in self._allow_cidrs)
        return not opened and self._own(address)
