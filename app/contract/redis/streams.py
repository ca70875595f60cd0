"""The event streams of many jobs, read by one blocking call: what a gateway's open connections share.

Asynchronous. Knows Redis streams and where each is read from; refuses to know who listens.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis.asyncio

from app.contract.redis import keys

READ_AT_ONCE = 100
"""Entries of one stream in one reply: a job has at most five a second, so more means that somebody came late."""

WAKE_SECONDS = 60
"""A wake-up call is read at once; the key goes by itself if its reader has died."""


class Entry(NamedTuple):
    """One event of a job, as its stream holds it."""

    id: str
    event: str
    data: dict[str, Any]


class EventStreams:
    """One reader's view. Methods raise redis.RedisError while Redis is away.

    `client` must decode responses. `waiting` is for the read that blocks; its socket timeout is longer than any block.
    """

    def __init__(self, client: redis.asyncio.Redis, *, waiting: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        self._waiting: Any = waiting
        self._wake_key = f"{keys.WAKE}{secrets.token_hex(8)}"
        self._woken = "0-0"

    async def read(self, places: Mapping[str, str], *, seconds: float) -> dict[str, list[Entry]]:
        """News of the jobs in `places`, each after its stream id; waits for the first, or for `wake`."""
        streams = {self._wake_key: self._woken} | {keys.EVENTS + job_id: after for job_id, after in places.items()}
        answer = await self._waiting.xread(streams, block=max(1, int(seconds * 1000)), count=READ_AT_ONCE)
        news: dict[str, list[Entry]] = {}
        for name, entries in answer or ():
            if name == self._wake_key:
                self._woken = entries[-1][0]
            else:
                news[name.removeprefix(keys.EVENTS)] = [_entry(*entry) for entry in entries]
        return news

    async def after(self, job_id: str, place: str) -> list[Entry]:
        """The events of one job after a stream id, at most READ_AT_ONCE of it. Does not wait."""
        entries = await self._redis.xrange(keys.EVENTS + job_id, min=f"({place}", count=READ_AT_ONCE)
        return [_entry(*entry) for entry in entries]

    async def wake(self) -> None:
        """Make a `read` that is under way return, or the next one."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.xadd(self._wake_key, {"": ""}, maxlen=1, approximate=False)
            pipeline.expire(self._wake_key, WAKE_SECONDS)
            await pipeline.execute()


def _entry(entry_id: str, fields: Mapping[str, str]) -> Entry:
    return Entry(entry_id, fields["event"], json.loads(fields["data"]))
