"""Refuses what is too big, too slow, not ours or unauthenticated, before anything is parsed. Pure ASGI.

Knows headers and callers; what a body may be is bodies.py's. Refuses to know routes beyond which of them are open to
everybody. The order of `_admit` is the order of the checks, and matters: a wrong key with a bad body is a wrong key.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import redis
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.edge.auth import Caller
from app.edge.bodies import JSON, Arrivals, Body, BodyRule, BodyRules
from app.edge.cells import Cells
from app.edge.error_handler import redis_problem
from app.edge.errors import (
    BodyTooLarge,
    HeadTooLarge,
    InternalError,
    InvalidHeader,
    NotServedHere,
    OtherPage,
    Unauthenticated,
    UnsupportedMediaType,
    WrongHost,
)
from app.edge.pages import Pages
from app.edge.problem import Problem
from app.edge.refusals import Refusals
from app.edge.stream_tokens import StreamRequest, asks_for_a_token, stream_request
from app.edge.strict_json import parse_json
from app.edge.waiting import ClientGone

log = structlog.get_logger()

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
DRAIN_BYTES: Final = 1024 * 1024
"""A refused body of up to this size is read and thrown away, so that a client that writes before it reads hears why."""
DRAIN_SECONDS: Final = 2.0
FILES_BYTES: Final = 50 * 1024 * 1024
"""The same for who sends pictures, be it to a route that takes none here; as much as OpenAI's takes."""

OPEN_PATHS: Final = frozenset(
    {"/", "/admin", "/healthz", "/readyz", "/problems", "/problems/", "/docs", "/openapi.json"}
)
OPEN_PREFIXES: Final = ("/static/", "/problems/", "/pictures/")
"""Pictures carry a signature in their link."""

PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Orchestrators ask by the address of the container, which no list of names can hold. Load balancers ask in HTTP/1.0,
which has no Host."""

REVOKED: Final = "The key has been revoked, or none was sent and one is needed now."
API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hosts:
    """Names that may stand in the Host header; without any, every valid one."""

    names: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str]) -> Hosts:
        return cls(frozenset(name.lower() for name in names))

    def allow(self, name: str) -> bool:
        """Whether the name, or a wildcard above it, is listed."""
        name = name.lower()
        _, _, above = name.partition(".")
        return not self.names or "*" in self.names or name in self.names or f"*.{above}" in self.names


class Doorkeeper(Protocol):
    """Says who asks. Raises Unauthenticated, Forbidden, RateLimited and redis.RedisError."""

    async def admit(
        self, header: str | None, *, method: str, stream: StreamRequest | None
    ) -> tuple[Caller, dict[str, str]]:
        """The caller, and headers for the answer."""


class Guard:
    """Stands before the application. `body_seconds` is how long a small body may take to arrive.

    Paths come with or without the prefix that `refusals` knows: proxies differ.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        doorkeeper: Doorkeeper,
        hosts: Hosts,
        pages: Pages,
        body_seconds: float,
        refusals: Refusals,
        bodies: BodyRules,
        cells: Cells,
    ) -> None:
        self.app = app
        self._cells = cells
        self._refusals = refusals
        self._doorkeeper = doorkeeper
        self._hosts = hosts
        self._pages = pages
        self._bodies = bodies
        self._arrivals = Arrivals(seconds=body_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        _take_off(self._refusals.prefix, scope)
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        reply = _Reply(send, request_id)
        try:
            receive = await self._admit(scope, receive, reply)
            await self.app(scope, receive, reply)
            await reply.end()
        except Problem as problem:
            # What is left of the request stays unread, so the connection cannot carry another one.
            problem.headers["Connection"] = "close"
            await self._refuse(problem, scope, receive, reply)
        except ClientGone:
            if not _is_revoked(scope):
                log.debug("client left before its request was answered")
            elif not reply.started:
                await self._refuse(Unauthenticated(REVOKED), scope, receive, reply)
        except redis.RedisError as error:
            await self._refuse(redis_problem(error), scope, receive, reply)
        except Exception:
            log.exception("request failed", method=scope["method"])
            if reply.started:
                raise
            broken = InternalError("The request failed here. The log has it under the request id.")
            await self._refuse(broken, scope, receive, reply)
        finally:
            if (body := body_of(scope)) is not None:
                body.close()

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, reply: _Reply) -> None:
        answer = self._refusals.write(problem, scope["state"]["request_id"], scope["path"], Headers(scope=scope))
        await answer(scope, receive, reply)

    async def _admit(self, scope: Scope, receive: Receive, reply: _Reply) -> Receive:
        headers = Headers(scope=scope)
        self._check_head(scope, headers)
        self._cells.require_here(scope)
        if not is_open(scope["path"]):
            method = "GET" if asks_for_a_token(scope["path"]) else scope["method"]
            caller, reply.extra = await self._doorkeeper.admit(
                headers.get("authorization"), method=method, stream=stream_request(scope)
            )
            scope["state"]["caller"] = caller
            if not caller.key_id and not self._pages.may_ask(scope["method"], headers):
                raise OtherPage(
                    "A page of another site asks for this; it may where DARKROOM_CORS_ORIGINS names it. If it is this"
                    " service's own page behind a proxy, set DARKROOM_PUBLIC_URL to its address."
                )
        try:
            self._refusals.refuse_unserved(scope["method"], scope["path"])
        except NotServedHere:
            await self._arrivals.drain(receive, headers, most=FILES_BYTES, seconds=DRAIN_SECONDS)
            raise
        if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
            return _until_revoked(scope, receive)
        rule = self._bodies.of(scope["path"])
        try:
            media_type = rule.check(headers)
            body = await self._arrivals.read(receive, headers, most=rule.most[media_type])
        except (BodyTooLarge, UnsupportedMediaType):
            most = FILES_BYTES if rule.is_for_pictures else DRAIN_BYTES
            await self._arrivals.drain(receive, headers, most=most, seconds=DRAIN_SECONDS)
            raise
        scope["state"]["body"] = body
        if _is_revoked(scope):
            raise Unauthenticated(REVOKED)
        shown = await self._read_json(body, rule) if media_type == JSON else b""
        return _replay(shown, _until_revoked(scope, receive))

    async def _read_json(self, body: Body, rule: BodyRule) -> bytes:
        """What the application is shown of it."""
        if body.is_large:
            return await self._arrivals.take_out(body, rule.taken_out)
        read = body.read()
        if read:
            parse_json(read)
        return read

    def _check_head(self, scope: Scope, headers: Headers) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > MAX_HEAD_BYTES or len(scope["headers"]) > MAX_HEADERS:
            raise HeadTooLarge(f"At most {MAX_HEADERS} headers and {MAX_HEAD_BYTES // 1024} KiB are read.")
        hosts = headers.getlist("host")
        if not hosts and scope["path"] in PROBES and scope["http_version"] == "1.0":
            return
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            raise InvalidHeader("Exactly one valid Host header is needed.")
        if len(headers.getlist("authorization")) > 1:
            raise InvalidHeader("A request has one caller: send one Authorization header.")
        if scope["path"] not in PROBES and not self._hosts.allow(found[1]):
            raise WrongHost("This service does not answer to the name in the Host header.")


class _Reply:
    """Sends with the headers that every answer has, and remembers whether anything was sent."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.started = False
        self.finished = False
        self.extra: dict[str, str] = {}

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers.setdefault("Content-Security-Policy", API_POLICY)
            headers.setdefault("Cache-Control", "private, no-cache")
            headers.update(self.extra)
        elif message["type"] == "http.response.body":
            self.finished = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """A stream that was broken off because its key was revoked ends like any other."""
        if self.started and not self.finished:
            await self({"type": "http.response.body", "body": b"", "more_body": False})


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _is_revoked(scope: Scope) -> bool:
    caller: Caller | None = scope["state"].get("caller")
    return caller is not None and caller.revoked is not None and caller.revoked.is_set()


def _until_revoked(scope: Scope, receive: Receive) -> Receive:
    """The client seems to leave when its key is revoked: streams and waits end as they do then."""
    caller: Caller | None = scope["state"].get("caller")
    if caller is None or caller.revoked is None:
        return receive
    over = caller.revoked

    async def either() -> Message:
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def has_come(*_: object) -> None:
            if not first.done():
                first.set_result(None)

        message = asyncio.ensure_future(receive())
        message.add_done_callback(has_come)
        over.listen(has_come)
        try:
            await first
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            over.forget(has_come)
            message.cancel()

    return either


def _take_off(prefix: str, scope: Scope) -> None:
    if prefix and (scope["path"] + "/").startswith(prefix + "/"):
        scope["path"] = scope["path"][len(prefix) :] or "/"
        scope["raw_path"] = scope["raw_path"].removeprefix(prefix.encode()) or b"/"


def is_open(path: str) -> bool:
    """Whether everybody may ask for this path, without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def body_of(scope: Scope) -> Body | None:
    """The request's body where it was read: of one that is not JSON it is the only place."""
    body: Body | None = scope["state"].get("body")
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def once() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once
