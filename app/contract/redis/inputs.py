"""Pictures that came in, as Redis knows them: whose each is, how long it is kept, which jobs need it.

An object is stored between `begin` and `add`, and removed between `may_remove` and `removed`; the scripts let no
removal overlap with another one or with an upload, so that no record is without its object and no object stays without
a record. Refuses to know where objects lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis.asyncio
from pydantic import BaseModel, ConfigDict

from app.contract.messages.input_id import input_id
from app.contract.redis import keys
from app.contract.redis.clock import due
from app.contract.redis.job_lists import BEGINNING
from app.contract.redis.scripts import source

Drop = Literal["dropped", "in-use", "missing"]


class StoredInput(BaseModel):
    """One picture that came in. Times are milliseconds of Redis time since the epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    tenant: str
    sha256: str
    bytes: int
    width: int
    height: int
    content_type: str
    created_ms: int
    expires_ms: int
    token: str = ""
    """Of the upload that made this record."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An object that may be nobody's, as Redis names it: "<id>/<tenant>/<sha256>"."""

    name: str

    @classmethod
    def of(cls, tenant: str, sha256: str) -> Orphan:
        return cls(f"{input_id(tenant, sha256)}/{tenant}/{sha256}")

    @property
    def id(self) -> str:
        return self.name.split("/")[0]

    @property
    def tenant(self) -> str:
        return self.name.split("/")[1]

    @property
    def sha256(self) -> str:
        return self.name.split("/")[2]


class InputsFull(Exception):
    """The tenant's pictures would take more bytes than it may have. `held` is what they take now."""

    def __init__(self, held: int) -> None:
        super().__init__(held)
        self.held = held


class InputStore:
    """Methods raise redis.RedisError while Redis is away, and may then be called again. `client` must decode."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        names = ("begin", "add", "drop", "remove", "removed", "read", "list", "held")
        self._scripts = {name: client.register_script(source(f"input_{name}")) for name in names}

    async def begin(self, orphan: Orphan, token: str, *, size: int = 0, most: int = 0) -> bool:
        """An upload, named by `token`, is about to store the object. False while it is being removed: ask again.

        `most` bytes may all of the tenant's have together, 0 for no bound. Raises InputsFull."""
        outcome, *held = await self._scripts["begin"](args=[orphan.name, token, orphan.id, orphan.tenant, size, most])
        _require_room(outcome, held)
        return cast(bool, outcome == "begun")

    async def add(
        self, orphan: Orphan, token: str, facts: Mapping[str, str | int], *, retention_ms: int, most: int = 0
    ) -> tuple[StoredInput, bool] | None:
        """The object is stored: its record, and whether it is new. `facts` are StoredInput's that the store knows.

        None if the object may be gone: it took longer than ORPHAN_MS, or the answer of a first try was lost and
        somebody has dropped the record since. Then the upload begins again, with another token. Raises InputsFull if
        others came in meanwhile; nobody need remove the object then.
        """
        fields: dict[str, str | int] = {"id": orphan.id, "tenant": orphan.tenant, "sha256": orphan.sha256, **facts}
        flat = [part for pair in fields.items() for part in pair]
        args: list[Any] = [orphan.id, orphan.name, token, retention_ms, orphan.tenant, facts["bytes"], most, *flat]
        outcome, *found = await self._scripts["add"](args=args)
        _require_room(outcome, found)
        added = _read(found) if outcome != "gone" else None
        return (added, outcome == "created") if added is not None else None

    async def bytes_of(self, tenant: str) -> int:
        """What all of the tenant's take together."""
        return int(await self._scripts["held"](args=[tenant]))

    async def get(self, asked: str, tenant: str) -> StoredInput | None:
        """The record, if it exists and is the tenant's."""
        [found] = await self._scripts["read"](args=[asked])
        seen = _read(found)
        return seen if seen is not None and seen.tenant == tenant else None

    async def page(self, tenant: str, *, limit: int, before: tuple[int, str] | None) -> list[StoredInput]:
        """The tenant's, newest first, at most `limit`; `before` is (created_ms, id) of the last one seen."""
        found = await self._scripts["list"](args=[tenant, *(before or BEGINNING), limit])
        return [stored for stored in map(_read, found) if stored is not None]

    async def drop(self, stored: StoredInput) -> tuple[Drop, Orphan | None]:
        """Take this record off, unless a job that is not over needs it. Its object is to be removed then. "missing" as
        well if the same picture has another record by now."""
        outcome, *rest = await self._scripts["drop"](args=[stored.id, stored.tenant, stored.token])
        return outcome, Orphan(rest[0]) if outcome == "dropped" else None

    async def drop_expired(self, asked: str) -> None:
        """The same for one whose time of keeping is over, if it still is."""
        await self._scripts["drop"](args=[asked, "", ""])

    async def expired(self, *, limit: int = 100) -> list[str]:
        """Ids of those whose time of keeping is over."""
        return await due(self._redis, keys.INPUT_EXPIRY, limit=limit)

    async def orphans(self, *, limit: int = 100) -> list[Orphan]:
        """Objects that nobody wants any more, or that nobody has come to own in time."""
        return [Orphan(name) for name in await due(self._redis, keys.INPUT_ORPHANS, limit=limit)]

    async def may_remove(self, orphan: Orphan, token: str) -> bool:
        """Whether the object is nobody's. Then nobody else removes it, and nobody stores it, until `removed` is called
        with the same token, or for ORPHAN_MS."""
        return bool(await self._scripts["remove"](args=[orphan.name, orphan.id, token]))

    async def removed(self, orphan: Orphan, token: str) -> None:
        """The object is gone."""
        await self._scripts["removed"](args=[orphan.name, token, 1])

    async def not_removed(self, orphan: Orphan, token: str) -> None:
        """Nobody knows whether the object is gone. Somebody is to remove it soon, and nobody stores it before."""
        await self._scripts["removed"](args=[orphan.name, token, 0])


def _require_room(outcome: str, held: list[Any]) -> None:
    if outcome == "full":
        raise InputsFull(held[0])


def _read(answer: list[Any]) -> StoredInput | None:
    flat, expires_ms = answer
    if not flat:
        return None
    return StoredInput.model_validate(dict(zip(flat[::2], flat[1::2], strict=True)) | {"expires_ms": expires_ms})
