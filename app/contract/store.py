"""The gateway's half of the contract: bring a job in, read it, call it off, and keep the house in order.

Asynchronous. RQ's job hash is made by RQ itself; the script that writes the record writes it too, and pushes the id.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis.asyncio
from rq.job import Job as RQJob
from rq.job import JobStatus as RQStatus
from rq.serializers import JSONSerializer

from app.contract import keys
from app.contract.card import ModelCard
from app.contract.events import FINAL_EVENTS, Status
from app.contract.job import Record
from app.contract.params import JobSpec, Webhook
from app.contract.scripts import source

ENTRY_POINT = "worker.intake.run"
"""The one function an RQ payload may name. Workers never call what a payload says: they read the record."""

LONGEST_BLOCK = 5.0
"""Seconds a read waits inside Redis: shorter than any socket timeout, and than a departed client may stay unnoticed."""

LISTED_AT_ONCE = 100
"""Records of one round trip when jobs are listed."""

Outcome = Literal["created", "replayed", "conflict", "queue-full", "tenant-full"]
Cancel = Literal["canceled", "requested", "over", "missing"]


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a submit: `id` is the new job's, or that of the earlier one with the same key."""

    outcome: Outcome
    id: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """Everything the record starts with."""

    id: str
    tenant: str
    spec: JobSpec
    retention_ms: int
    metadata: dict[str, str]
    webhook: Webhook | None = None
    traceparent: str = ""

    def fields(self) -> dict[str, str | int]:
        """Record fields that only the submitter knows; the script adds ids, status and times."""
        fields: dict[str, str | int] = {
            "spec": self.spec.model_dump_json(),
            "metadata": json.dumps(self.metadata),
            "retention_ms": self.retention_ms,
            "traceparent": self.traceparent,
        }
        if self.webhook:
            fields |= {
                "webhook": self.webhook.model_dump_json(),
                "webhook_events": json.dumps(self.webhook.events),
            }
        return fields


@dataclass(frozen=True, slots=True)
class Served:
    """A model and the workers that were heard of lately."""

    card: ModelCard
    workers: int


class JobStore:
    """Redis as the gateway uses it. Methods raise redis.RedisError while it is away.

    `client` must decode responses; `waiting` is a second one for reads that block, whose socket timeout is longer than
    LONGEST_BLOCK, so that the first may keep a short one.
    """

    def __init__(self, client: redis.asyncio.Redis, *, waiting: redis.asyncio.Redis | None = None) -> None:
        self._waiting: Any = waiting or client
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        names = ("submit", "cancel", "reap", "forget")
        self._scripts = {name: client.register_script(source(name)) for name in names}

    async def submit(
        self,
        job: NewJob,
        *,
        queue_limit: int,
        tenant_limit: int,
        idempotency_key: str | None = None,
        body_hash: str = "",
    ) -> Submission:
        """Record, first event and place in the queue in one script, or the reason why not."""
        key = f"{keys.IDEMPOTENCY}{job.tenant}:{idempotency_key}" if idempotency_key else ""
        record, rq_hash = _flat(job.fields()), _flat(_rq_hash(job.id, job.spec.model))
        head: list[Any] = [job.id, job.tenant, job.spec.model, body_hash, queue_limit, tenant_limit, len(record)]
        outcome, job_id = await self._scripts["submit"](keys=[key], args=head + record + rq_hash)
        return Submission(outcome, job_id)

    async def get(self, job_id: str, tenant: str) -> Record | None:
        """The record, if it exists and belongs to the tenant."""
        fields = await self._redis.hgetall(keys.JOB + job_id)
        return Record.from_hash(fields) if fields.get("tenant") == tenant else None

    async def list_jobs(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, status: Status | None = None
    ) -> list[Record]:
        """The tenant's jobs, newest first, at most `limit`; `before` is (created_ms, id) of the last one seen."""
        found: list[Record] = []
        newest, last = (before[0], before[1]) if before else ("+inf", "~")
        offset = 0
        while len(found) < limit:
            page = await self._redis.zrevrangebyscore(
                keys.TENANT + tenant, newest, "-inf", start=offset, num=LISTED_AT_ONCE, withscores=True
            )
            if not page:
                break
            offset += len(page)
            records = await self._get_many([job_id for job_id, created in page if created != newest or job_id < last])
            found += [record for record in records if status in (None, record.status)]
        return found[:limit]

    async def _get_many(self, job_ids: list[str]) -> list[Record]:
        """The records that exist, in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hgetall(keys.JOB + job_id)
            return [Record.from_hash(fields) for fields in await pipeline.execute() if fields]

    async def cancel(self, job_id: str, tenant: str) -> Cancel:
        """Call a job off; 'requested' means that its worker was told."""
        return cast(Cancel, await self._scripts["cancel"](args=[job_id, tenant]))

    async def forget(self, job_id: str) -> bool:
        """Remove the record and its events. False while the job is not over."""
        return bool(await self._scripts["forget"](args=[job_id]))

    async def reap(self, *, limit: int = 100) -> tuple[int, int, int]:
        """Judge leases that have run out: (requeued, failed, put on the list again)."""
        requeued, failed, repaired = await self._scripts["reap"](args=[limit])
        return requeued, failed, repaired

    async def try_lock_reaper(self, owner: str, *, seconds: float) -> bool:
        """True for the one gateway that may reap during the next seconds."""
        return bool(await self._redis.set(keys.REAPER_LOCK, owner, nx=True, px=int(seconds * 1000)))

    async def expired(self, *, limit: int = 100) -> list[str]:
        """Ids of jobs whose time of keeping is over."""
        now_ms = await self._now_ms()
        return cast(list[str], await self._redis.zrangebyscore(keys.EXPIRY, "-inf", now_ms, start=0, num=limit))

    async def models(self) -> dict[str, Served]:
        """Models that workers have announced, by name."""
        cards = await self._redis.hgetall(keys.CARDS)
        since = await self._now_ms() - keys.ALIVE_MS
        served = {}
        for name in sorted(cards):
            workers = await self._redis.zcount(keys.ALIVE + name, since, "+inf")
            served[name] = Served(ModelCard.model_validate_json(cards[name]), workers)
        return served

    async def position(self, record: Record) -> int | None:
        """How many jobs of the model are claimed before this one, or None if it does not wait."""
        return cast("int | None", await self._redis.zrank(keys.QUEUED + record.model, record.id))

    async def queue_depth(self, model: str) -> int:
        """Jobs of the model that wait."""
        return cast(int, await self._redis.zcard(keys.QUEUED + model))

    async def pace_ms(self, model: str) -> float | None:
        """Moving average of how long a job of the model runs, in ms; None before the first."""
        pace = await self._redis.hget(keys.PACE + model, "job_ms")
        return float(pace) if pace else None

    async def next_events(
        self, job_id: str, after: str, *, wait_seconds: float
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """Events after the given stream id: (stream id, event, data). Waits for the first if there is none yet.

        `after` "0" starts at the beginning, "$" at now.
        """
        block = max(1, int(wait_seconds * 1000))
        answer = await self._waiting.xread({keys.EVENTS + job_id: after}, block=block, count=100)
        entries = answer[0][1] if answer else []
        return [(entry_id, fields["event"], json.loads(fields["data"])) for entry_id, fields in entries]

    async def last_event_id(self, job_id: str) -> str:
        """Stream id of the job's newest event, "0-0" if there is none. What is read after it misses nothing."""
        newest = await self._redis.xrevrange(keys.EVENTS + job_id, count=1)
        return cast(str, newest[0][0]) if newest else "0-0"

    async def server_info(self) -> dict[str, Any]:
        """Redis INFO, sections memory and persistence: whether it keeps what it accepts, and how full it is."""
        memory, persistence = await self._redis.info("memory"), await self._redis.info("persistence")
        return {**memory, **persistence}

    async def wait_until_over(self, record: Record, *, seconds: float) -> Record:
        """The record as it is once the job is over, or when the time is up."""
        ends, after = time.monotonic() + seconds, "0"
        while not record.status.is_over and (left := ends - time.monotonic()) > 0:
            events = await self.next_events(record.id, after, wait_seconds=min(left, LONGEST_BLOCK))
            if events:
                after = events[-1][0]
            if any(event in FINAL_EVENTS for _, event, _ in events):
                return await self.get(record.id, record.tenant) or record
        return await self.get(record.id, record.tenant) or record

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _flat(fields: dict[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]


def _rq_hash(job_id: str, model: str) -> dict[str, Any]:
    """RQ's own hash of a queued job. The payload is the id; the description shows no prompt."""
    job = RQJob.create(
        ENTRY_POINT,
        args=[job_id],
        id=job_id,
        connection=cast(Any, _NoConnection()),
        origin=keys.queue_name(model),
        description=f"{ENTRY_POINT}({job_id})",
        status=RQStatus.QUEUED,
        serializer=JSONSerializer,
        timeout=-1,
    )
    return {name: value for name, value in job.to_dict(include_meta=False).items() if value is not None}


class _NoConnection:
    """RQ asks for a connection to build a hash that we write ourselves."""
