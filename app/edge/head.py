"""HEAD is answered wherever GET is: by the same route, with the same headers, without the body. Pure ASGI.

Inside of the guard. Knows no route; a route that would wait or stream asks `is_head` and answers at once.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MARK = "is_head"


class HeadAsGet:
    """Shows a HEAD to the application as a GET, and keeps the body of its answer back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)
        scope.setdefault("state", {})[_MARK] = True
        # A copy: the server drops what a HEAD must not have by the method that it sees.
        inner = {**scope, "method": "GET"}

        async def bodiless(message: Message) -> None:
            if message["type"] == "http.response.start" and "route" in inner:
                scope["route"] = inner["route"]
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app(inner, receive, bodiless)


def is_head(request: HTTPConnection) -> bool:
    """Whether only the head of the answer is wanted."""
    return bool(getattr(request.state, _MARK, False))
