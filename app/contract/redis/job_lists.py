"""Lists of a tenant's jobs, by pages: all, those of one status, those that are not over.

Knows the sorted sets that hold them, and how a reply of `seen` in prelude.lua becomes records. A page costs what is on
it, however many jobs there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import redis.asyncio

from app.contract.messages.events import TERMINAL, Status
from app.contract.messages.job import Record
from app.contract.messages.questions import Task
from app.contract.redis import keys
from app.contract.redis.scripts import source

Seen = tuple[list[str], int | None]

INDEXED_AT_ONCE = 500
"""Jobs of one call: a few milliseconds of Redis' time."""

BEGINNING = ("+inf", "~")
"""The place before a list's newest job: a moment after all others, an id behind all others."""


class JobLists:
    """Methods raise redis.RedisError while Redis is away. `client` must decode responses."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._list: Any = client.register_script(source("list"))
        self._index: Any = client.register_script(source("index"))
        self._read: Any = client.register_script(source("read"))
        self._redis: Any = client

    async def page(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None, status: Status | None, task: Task | None
    ) -> list[Record]:
        """Newest first, at most `limit`; `before` is (created_ms, id) of the last one seen."""
        wanted = [tenant, status or "", *(before or BEGINNING), limit]
        is_whole, *answer = await self._list(args=[*wanted, "", task or ""])
        if not is_whole:
            await self._make_whole(tenant)
            _, *answer = await self._list(args=[*wanted, "checked", task or ""])
        return records_of(answer[0])

    async def open(
        self, tenant: str, *, limit: int, status: Status | None, task: Task | None, metadata: Mapping[str, str]
    ) -> list[Record]:
        """Jobs that are not over, newest first: all, or those of a status or a task, or with these notes."""
        notes = [part for note in metadata.items() for part in note]
        wanted = [tenant, status or "open", *BEGINNING, limit, "checked", task or "", *notes]
        return records_of((await self._list(args=wanted))[1])

    async def named_like(
        self,
        tenant: str,
        prefix: str,
        *,
        limit: int,
        before: tuple[int, str] | None,
        status: Status | None,
        task: Task | None,
    ) -> list[Record]:
        """As `page`, of the jobs whose ids begin so. Asks for all their records: the prefix must be long enough."""
        scan = self._redis.zscan_iter(keys.TENANT + tenant, match=f"{prefix}*", count=INDEXED_AT_ONCE)
        places = sorted({(int(created), job_id) async for job_id, created in scan}, reverse=True)
        ids = [job_id for created, job_id in places if before is None or (created, job_id) < before]
        found = records_of(await self._read(args=["brief", *ids])) if ids else []
        return [each for each in found if status in (None, each.status) and task in (None, each.task)][:limit]

    async def _make_whole(self, tenant: str) -> None:
        """Enter what came or ended before there were indices, in small pieces: others ask Redis in between."""
        finals = sorted(TERMINAL)
        of_tasks = [f"{task}:{status}" for task in get_args(Task) for status in ("", *finals)]
        for index in ("", *finals, *of_tasks):
            place: Any = BEGINNING
            while place:
                place = await self._index(args=[tenant, index, *place, INDEXED_AT_ONCE])


def records_of(seen: Iterable[Seen]) -> list[Record]:
    """The jobs that there are, each with its place in the queue."""
    return [
        Record.from_hash(dict(zip(pairs[::2], pairs[1::2], strict=True)), position=position)
        for pairs, position in seen
        if pairs
    ]
