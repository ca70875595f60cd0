"""What the service answers to operators: the shapes that a command believes, lists page by page, and changes.

Knows the routes under /v1/admin. Refuses to know how anything is shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.cli.answers import NUMBER, fits, is_id, is_word
from app.cli.client import CommandError, Refused, Service, complain, converse
from app.cli.exits import REFUSED, UNREACHABLE
from app.cli.kept_secrets import OPERATOR_TOKEN, operators_key
from app.cli.options import Access

Row = dict[str, Any]

PAGE = 1_000
"""Entries of one answer, at most."""

TOKEN_ENDED = (
    "the service has keys, and takes the operator's token no longer: `darkroom keys create NAME --scope"
    " admin` on its machine makes a key; give it with --api-key or DARKROOM_API_KEY"
)

NO_TOKEN = (
    "there is no {}: name the data folder of a `darkroom up` that was started without DARKROOM_OPERATOR_TOKEN, as its"
    " user, or give a key with --api-key"
)

SHARE = {
    "model": str, "tenant": str, "waiting": int, "running": int, "waiting_cost": NUMBER, "running_cost": NUMBER,
    "oldest_waiting_at": (None, str),
}  # fmt: skip
WORKER = {
    "name": str, "state": is_word, "models": [str], "in_memory": [str], "device": (None, str), "seats": (None, int),
    "free_seats": (None, int), "jobs": (None, int), "rows_per_second": (None, *NUMBER), "activity": (None, str),
    "version": (None, str), "last_beat_at": str,
}  # fmt: skip
PAUSE = {"since": str, "until": (None, str), "accepts": bool, "reason": str}
MODEL = {
    "id": str, "state": is_word, "workers": int, "in_memory": int, "seats": int, "waiting": int, "running": int,
    "oldest_waiting_seconds": NUMBER, "unserved_seconds": NUMBER, "paused": (None, PAUSE),
}  # fmt: skip
DEAD = {"id": is_id, "tenant": str, "model": str, "error": (None, {"slug": str, "detail": str}), "died_at": str}
RERUN = {"retry_of": is_id, "id": (None, is_id), "refusal": (None, str), "detail": (None, str)}
RERUNS = {"data": [RERUN], "next_cursor": (None, str)}
DRAIN = {"worker": str, "state": is_word}
CHANGE = {"at": str, "action": str, "target": str, "outcome": str, "tenant": str, "key_id": str, "via": str}


def converse_as_operator(command: str, access: Access, work: Callable[[Service], Awaitable[int]]) -> int:
    """As `converse`; with the token of the data folder that is named, or without a key with that of the service that
    was started over the one here."""
    key = operators_key(access.url, access.api_key, access.data)
    if key is None and access.data is not None:
        return complain(command, CommandError(NO_TOKEN.format(access.data / OPERATOR_TOKEN), REFUSED))

    async def with_token(service: Service) -> int:
        try:
            return await work(service)
        except Refused as refusal:
            if refusal.status != 401:
                raise
            raise CommandError(TOKEN_ENDED, REFUSED) from None

    is_token = key is not None and (access.data is not None or not access.api_key)
    return converse(command, access.url, key, with_token if is_token else work)


async def list_all(service: Service, path: str, shape: Any, *, limit: int, **query: str | None) -> list[Row]:
    """At most so many entries, page by page."""
    rows: list[Row] = []
    asked = {name: value for name, value in query.items() if value}
    cursor: str | None = None
    while len(rows) < limit:
        page = asked | {"limit": str(min(PAGE, limit - len(rows)))} | ({"cursor": cursor} if cursor else {})
        found = await service.ask("GET", f"/v1/admin/{path}", params=page)
        answer = require(service, found, {"data": [shape], "next_cursor": (None, str)})
        rows += answer["data"]
        cursor = answer["next_cursor"]
        if cursor is None or not answer["data"]:
            break
    return rows


async def models_of(service: Service) -> list[Row]:
    """The models with their queues."""
    return require(service, await service.ask("GET", "/v1/admin/models"), {"data": [MODEL]})["data"]  # type: ignore[no-any-return]


async def unless_forbidden(looking: Awaitable[list[Row]]) -> list[Row] | None:
    """What is looked at before a change; None for a key without `read`, which may change all the same."""
    try:
        return await looking
    except Refused as refusal:
        if refusal.status != 403:
            raise
        return None


async def change(service: Service, path: str, shape: Any, body: Mapping[str, Any]) -> Row:
    """What is answered to a change. What the body has as None is left out."""
    given = {name: value for name, value in body.items() if value is not None}
    return require(service, await service.ask("POST", f"/v1/admin/{path}", json=given), shape)


def require(service: Service, found: Row, shape: Any) -> Row:
    """The answer, if it is what such a service answers. Raises CommandError."""
    if not fits(found, shape):
        message = f"{service.http.base_url} answers what no darkroom of this version does; name another with --url"
        raise CommandError(message, UNREACHABLE)
    return found
