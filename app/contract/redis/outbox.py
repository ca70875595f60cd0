"""What is owed to webhooks: the outbox, who is trying which entry, and the log of tries.

The scripts that end or restart a job write entries; everything that later happens to them happens here. Knows nothing
of HTTP, signatures or how long to wait: those come in with the calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis.asyncio
from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages.job import Record, new_token
from app.contract.redis import keys
from app.contract.redis.scripts import source

Verdict = Literal["over", "disabled", "again", "postponed"]
Resend = Literal["sent", "missing", "unsent"]


class Delivery(BaseModel):
    """One line of a job's delivery log: a try, or the reason why none was made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    webhook_id: str = Field(description="The same for every try of one event, as the receiver sees it")
    event: str
    number: int = Field(description="1 for the first try")
    outcome: Literal["delivered", "failed", "exhausted", "disabled"]
    status: int | None = Field(default=None, description="HTTP status of the answer, if there was one")
    detail: str = ""
    at_ms: int
    took_ms: int
    next_ms: int | None = Field(default=None, description="When the next try is due")


@dataclass(frozen=True, slots=True)
class Owed:
    """A due entry that no RQ job carries. `rq_id` is empty if the entry was unreadable and was taken out."""

    entry: str
    rq_id: str


@dataclass(frozen=True, slots=True)
class Try:
    """One try at one entry, owned by whoever knows the token. Times are ms of Redis time."""

    entry: str
    token: str
    now_ms: int
    fact_ms: int
    number: int
    disabled: bool
    fields: Mapping[str, str]

    @property
    def job_id(self) -> str:
        return self.entry.split("/")[0]

    @property
    def event(self) -> str:
        return self.entry.split("/")[1]

    def record(self) -> Record | None:
        """The job as it is now, or was when it was forgotten; None if nothing is known of it any more.

        ValueError if another version wrote what we cannot read.
        """
        return Record.from_hash(self.fields) if self.fields else None


class Outbox:
    """The outbox as its process and the gateway use it. `client` must decode responses.

    Methods raise redis.RedisError while Redis is away and may then be called again.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        names = ("due", "relay", "take", "beat", "settle", "resend")
        self._scripts = {name: client.register_script(source(f"outbox_{name}", "outbox")) for name in names}

    async def owed(self, *, limit: int) -> list[Owed]:
        """Due entries that wait on no list, among the `limit` oldest."""
        found = await self._scripts["due"](args=[limit])
        return [Owed(entry, rq_id) for entry, rq_id in zip(found[::2], found[1::2], strict=True)]

    async def relay(self, owed: Owed, rq_hash: Mapping[str, str | int | bytes]) -> bool:
        """Put the entry on RQ's queue. False if another process has done so, or its time is no longer now."""
        flat = [part for pair in rq_hash.items() for part in pair]
        return bool(await self._scripts["relay"](args=[owed.entry, owed.rq_id, *flat]))

    async def take(self, worker: str, token: str) -> Try | None:
        """Own the next entry of RQ's queue, or None if nothing waits. After an error, ask with the same token again."""
        answer = await self._scripts["take"](args=[worker, token])
        if answer is None:
            return None
        entry, now_ms, fact_ms, before, disabled, flat = answer
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        return Try(entry, token, int(now_ms), int(fact_ms), int(before) + 1, disabled == "1", fields)

    async def beat(self, tries: Iterable[Try]) -> int:
        """Keep the entries of tries under way; answers how many are still owned."""
        args = [part for one in tries for part in (one.entry, one.token)]
        return int(await self._scripts["beat"](args=args)) if args else 0

    async def settle(self, one: Try, verdict: Verdict, *, delay_ms: int = 0, log: Delivery | None = None) -> bool:
        """Say how a try ended. `delay_ms` counts for 'again' and 'postponed'. False if somebody else owns it now."""
        line = log.model_dump_json() if log else ""
        answer = await self._scripts["settle"](args=[one.entry, one.token, verdict, delay_ms, line])
        return bool(answer == "done")

    async def resend(self, job_id: str, event: str) -> Resend:
        """Send a fact again, with all its tries; the receiver sees the same webhook-id."""
        return cast(Resend, await self._scripts["resend"](args=[job_id, event, new_token()]))

    async def deliveries(self, job_id: str) -> list[Delivery]:
        """The tries made for a job, newest first."""
        lines = await self._redis.lrange(keys.DELIVERIES + job_id, 0, -1)
        return [Delivery.model_validate_json(line) for line in lines]
