"""Tokens that open one event stream and nothing else, for a quarter of an hour: EventSource cannot send a key, and
Replicate's client for JavaScript sends none to `urls.stream`.

A token stands for the key that asked for it: it ends with that key. Redis keeps its SHA-256. Knows which requests may
bear one; refuses to know what a stream says.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import parse_qs

import redis.asyncio
from starlette.types import Scope

from app.contract.messages import patterns
from app.contract.redis import keys
from app.edge.auth import Caller

TOKEN_SECONDS: Final = 900
"""Longer than a stream's longest life, so that EventSource comes back by itself once; and short for a link that some
proxy's log may hold."""

_JOB = patterns.WHOLE_JOB_ID.strip("^$")
_STREAM = re.compile(rf"/v1/(?:jobs/({_JOB})/events|predictions/({_JOB})/stream)")
_MINT = re.compile(r"/v1/jobs/[^/]{1,64}/events/token")


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A request for a job's events, or a prediction's, that bears a token in place of a key."""

    stream: str
    token: str


def stream_request(scope: Scope) -> StreamRequest | None:
    """What the request is, if it is one. A token anywhere else is no token."""
    if not scope["query_string"] or scope["method"] not in ("GET", "HEAD"):
        return None
    found = _STREAM.fullmatch(scope["path"])
    given = parse_qs(scope["query_string"].decode("latin-1")).get("token", []) if found else []
    if not found or len(given) != 1:
        return None
    return StreamRequest(found[1] or of_prediction(found[2]), given[0])


def of_prediction(job_id: str) -> str:
    """The name of a prediction's stream; that of a job's own events is the job's id."""
    return f"prediction:{job_id}"


def asks_for_a_token(path: str) -> bool:
    """Whether a request to this path makes a token: it allows no more than reading, so the scope `read` will do."""
    return _MINT.fullmatch(path) is not None


class StreamTokens:
    """Raises redis.RedisError while Redis is away. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once

    async def create(self, stream: str, caller: Caller) -> str:
        """A token for this stream of the caller's job."""
        token = secrets.token_urlsafe(24)
        await self._redis.set(_name(token), f"{stream} {caller.tenant} {caller.key_id}", ex=TOKEN_SECONDS)
        return token

    async def find(self, asked: StreamRequest) -> tuple[str, str] | None:
        """Tenant and key id of whoever asked for the token, if it is one of this stream and still young."""
        found = cast("str | None", await self._redis.get(_name(asked.token)))
        stream, tenant, key_id = found.split(" ") if found else ("", "", "")
        return (tenant, key_id) if stream == asked.stream else None


def _name(token: str) -> str:
    return keys.STREAM_TOKEN + hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
