"""Fetches a file from a link that a caller gave: every hop is judged, and only judged addresses are dialled.

Knows HTTP and limits. Refuses to know what the file is for and what is in it. Its errors hold no address: a caller must
not learn what is reachable from here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection
from functools import cached_property
from typing import Final
from urllib.parse import urljoin

import httpcore2

from app import __version__
from app.outbound.address import HTTPS_PORT, Network, Target, WebhookRefused, check_url

DEADLINE_SECONDS: Final = 20.0
"""For all of it, from resolving the first name to the last byte."""

HOPS: Final = 3
"""Redirects that are followed. Each leads to a URL that is judged like the first."""

MEDIA_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/jpg", "image/webp", "application/octet-stream", ""})

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class NotFetched(Exception):
    """`code` is a word for programs, `detail` the end of a sentence for whoever gave the link."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Fetcher:
    """GETs, without cookies, credentials, proxies of the environment and connections that are kept."""

    def __init__(
        self,
        backend: httpcore2.AsyncNetworkBackend,
        *,
        allow_http: bool = False,
        allow_ports: Collection[int] = (HTTPS_PORT,),
        allow_cidrs: Collection[Network] = (),
        ssl_context: ssl.SSLContext | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._backend = backend
        self._allowed = {"allow_http": allow_http, "allow_ports": allow_ports, "allow_cidrs": allow_cidrs}
        self._ssl_context = ssl_context
        self._deadline = deadline

    async def get(self, url: str, *, most_bytes: int) -> bytes:
        """The body of the answer, at most so many bytes. Raises NotFetched."""
        try:
            async with (
                asyncio.timeout(self._deadline),
                httpcore2.AsyncConnectionPool(ssl_context=self._tls, network_backend=self._backend) as pool,
            ):
                return await self._follow(pool, url, most_bytes)
        except WebhookRefused as refusal:
            raise NotFetched("url_refused", f"leads to where this service does not go. {refusal}") from None
        except TimeoutError:
            raise NotFetched("too_slow", f"had not been fetched after {self._deadline:g} s") from None
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
            raise NotFetched("not_reached", "could not be reached") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):
            raise NotFetched("broken_off", "broke off before all of it had come") from None

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._ssl_context or httpcore2.default_ssl_context()

    async def _follow(self, pool: httpcore2.AsyncConnectionPool, url: str, most_bytes: int) -> bytes:
        for _ in range(HOPS + 1):
            target = check_url(url, **self._allowed)  # type: ignore[arg-type]
            where = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
            async with pool.stream("GET", where, headers=_headers(target)) as response:
                location = _header(response, b"location")
                if response.status not in _REDIRECTS or not location:
                    return await _body(response, most_bytes)
            url = urljoin(url, location)
        raise NotFetched("too_many_redirects", f"redirects more than {HOPS} times")


def _headers(target: Target) -> list[tuple[str, str]]:
    return [
        ("host", target.authority),
        ("user-agent", f"Darkroom/{__version__} (inputs)"),
        ("accept", "image/png, image/jpeg, image/webp"),
        ("accept-encoding", "identity"),
        ("connection", "close"),
    ]


def _header(response: httpcore2.Response, name: bytes) -> str:
    found = next((value for key, value in response.headers if key.lower() == name), b"")
    return found.decode("latin-1").strip()


async def _body(response: httpcore2.Response, most_bytes: int) -> bytes:
    if response.status != 200:
        raise NotFetched("no_answer", f"was answered with status {response.status}")
    media_type = _header(response, b"content-type").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES or _header(response, b"content-encoding").lower() not in ("", "identity"):
        raise NotFetched("not_a_picture", "leads to something that is no PNG, JPEG or WebP picture")
    chunks, size = list[bytes](), 0
    async for chunk in response.aiter_stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > most_bytes:
            raise NotFetched("too_large", f"leads to a file of more than {most_bytes} bytes")
    return b"".join(chunks)
