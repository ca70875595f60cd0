"""Cross-origin requests of the pages that the operator names, and of no others. Pure ASGI, outside of the guard.

A preflight is answered before the key is asked for, since a browser sends it without one; refusals of the guard can be
read by the page too. Starlette's CORSMiddleware does not fit: it says Vary only where an Origin was sent, so that a
picture that an <img> has put into the browser's cache, without one, is then refused to the page's own fetch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.edge.stream_tokens import stream_request

EXPOSED: Final = ", ".join(
    (
        "Location",
        "Retry-After",
        "X-Request-Id",
        "ETag",
        "RateLimit",
        "RateLimit-Policy",
        "Idempotency-Replayed",
        "Preference-Applied",
        "WWW-Authenticate",
        "Allow",
        "Content-Range",
        "Content-Length",
        "Content-Disposition",
        "Accept-Ranges",
        # OpenAI's client in a page asks again after a 409 or 5xx unless it can read this.
        "X-Should-Retry",
    )
)
"""What scripts may read beside the few headers that they always may."""

METHODS: Final = "GET, HEAD, POST, DELETE"
MAX_AGE_SECONDS: Final = 7_200
"""How long a browser remembers a preflight: Chromium's longest. The set of origins changes with a restart only."""

_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([1-9][0-9]{0,4}))?", re.ASCII)
_PORTS: Final = {"http": "80", "https": "443"}


def origin(text: str) -> str:
    """The text, if it is an origin as browsers write it. ValueError otherwise: it would never match."""
    found = _ORIGIN.fullmatch(text)
    if found is None or int(found[3] or 0) > 65_535 or found[3] == _PORTS[found[1]]:
        raise ValueError(
            "an origin is written as browsers send it: https://app.example, in small letters, with the port if it is "
            "not the usual one and with nothing after it; * and null are not taken"
        )
    return text


class Cors:
    """Lets scripts of these origins read the answers. Whether a key is good is still the guard's question."""

    def __init__(self, app: ASGIApp, *, origins: Iterable[str]) -> None:
        self.app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        asking = headers.get("origin", "")
        allowed = asking if asking in self._origins else None
        if allowed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return await _preflight(headers, allowed)(scope, receive, send)

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.add_vary_header("Origin")
                if allowed:
                    answer["Access-Control-Allow-Origin"] = allowed
                    answer["Access-Control-Expose-Headers"] = EXPOSED
                    if stream_request(scope) is not None and "authorization" not in headers:
                        # Replicate's example is `new EventSource(urls.stream, {withCredentials: true})`. The link is
                        # all that opens such a stream, so that a cookie beside it changes nothing. A key, or a
                        # password that the browser remembers, would count in the place of the link.
                        answer["Access-Control-Allow-Credentials"] = "true"
            await send(message)

        await self.app(scope, receive, said)


def _preflight(headers: Headers, allowed: str) -> Response:
    answer = {
        "Access-Control-Allow-Origin": allowed,
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    # Client libraries send headers of their own (x-stainless-...), and none opens anything: cookies are not allowed.
    if asked := headers.get("access-control-request-headers"):
        answer["Access-Control-Allow-Headers"] = asked
    return Response(status_code=204, headers=answer)
