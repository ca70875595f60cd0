"""The gateway's half of the contract: bring a job in, read it, call it off, and keep the queue in order.

Asynchronous. RQ's job hash is made by RQ itself; the script that writes the record writes it too, and pushes the id.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import redis.asyncio

from app.contract.messages.audit import Change, Operator
from app.contract.messages.events import FINAL_EVENTS, Status
from app.contract.messages.job import Record, new_epoch, new_job_id
from app.contract.messages.new_job import NewJob
from app.contract.messages.questions import Task
from app.contract.redis import keys
from app.contract.redis.clock import due
from app.contract.redis.job_lists import JobLists, records_of
from app.contract.redis.leftovers import Leftovers
from app.contract.redis.lost_jobs import AcceptedJobs, JobLost
from app.contract.redis.models import Models
from app.contract.redis.quota import Budget, Left
from app.contract.redis.rq_job import rq_hash
from app.contract.redis.scripts import source
from app.contract.redis.server import RedisServer
from app.contract.redis.store_words import StoreWords

LONGEST_BLOCK = 5.0
"""Seconds a read waits inside Redis: shorter than any socket timeout, and than a departed client may stay unnoticed."""

CANCELED_AT_ONCE = 50
"""Jobs of one round trip. Redis serves others between any two of them."""

Outcome = Literal["created", "replayed", "conflict", "queue-full", "tenant-full", "rate-limited", "input-gone"]
Retry = Literal[
    "created", "replayed", "missing", "not-failed", "content-blocked", "queue-full", "tenant-full", "rate-limited",
    "input-gone",
]  # fmt: skip
Cancel = Literal["canceled", "requested", "over", "missing"]


class QueueLost(redis.RedisError):
    """Redis has come back without what it knew: no accepted job is in it. `str()` names the remedy."""

    def __init__(self) -> None:
        super().__init__("Redis has lost its jobs: restore its files, or restart the gateways to begin anew")


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a submit: `id` is the new job's, or that of the earlier one with the same key.

    `record` is how the job stands if it was created or replayed, or stood before somebody has deleted it; None if the
    earlier one has been deleted. `left` says,
    if it was "rate-limited", what the counter still allows.
    """

    outcome: Outcome
    id: str
    record: Record | None = None
    left: Left | None = None


@dataclass(frozen=True, slots=True)
class Retrial:
    """What became of a retry: `id` is the new job's, or the old one's if there is none."""

    outcome: Retry
    id: str
    left: Left | None = None


class Reaped(NamedTuple):
    """Jobs that were queued again, that failed, and that were put on RQ's list again; and how many leases were judged,
    those of jobs that had been called off or were over among them."""

    requeued: int
    failed: int
    repaired: int
    judged: int


class JobStore:
    """Redis as the gateway uses it. Methods raise redis.RedisError while it is away.

    `client` must decode responses; `waiting` is a second one for reads that block, whose socket timeout is longer than
    LONGEST_BLOCK, so that the first may keep a short one.
    """

    def __init__(self, client: redis.asyncio.Redis, *, waiting: redis.asyncio.Redis | None = None) -> None:
        self._waiting: Any = waiting or client
        self._redis: Any = client  # redis-py types every reply for both encodings and both modes at once
        self._epoch = ""
        self._lists = JobLists(client)
        self.accepted = AcceptedJobs(client)
        self.models = Models(client)
        self.leftovers = Leftovers(client)
        self.server = RedisServer(client)
        self.store_words = StoreWords(client)
        names = ("submit", "known", "read", "retry", "cancel", "reap", "forget")
        self._scripts = {name: client.register_script(source(name)) for name in names}

    async def submit(
        self,
        job: NewJob,
        *,
        queue_limit: int,
        tenant_limit: int,
        idempotency_key: str | None = None,
        body_hash: str = "",
        budget: Budget | None = None,
    ) -> Submission:
        """Record, first event, place in the queue and charge in one script, or the reason why not. Raises QueueLost."""
        record, rq_job = _flat(job.fields()), _flat(rq_hash(job.id, job.spec.model))
        head: list[Any] = [job.id, job.tenant, job.spec.model, job.cost, body_hash, queue_limit, tenant_limit]
        head += [await self.epoch(), *_charged_to(budget), " ".join(job.inputs), len(record)]
        key = [_idempotency(job.tenant, idempotency_key)] if idempotency_key else []
        outcome, job_id, *found = await self._scripts["submit"](keys=key, args=head + record + rq_job)
        if outcome == "lost":
            raise QueueLost
        if outcome == "rate-limited":
            return Submission(outcome, job_id, left=Left.of(*found))
        if outcome == "created" and found[-1] is not None:
            self.accepted.add(job.id, job.tenant)
        if outcome == "created" and len(found) == 2:
            created_ms, position = found
            return Submission(outcome, job_id, job.accepted(int(created_ms), position))
        return Submission(outcome, job_id, _first(found))

    async def known(self, tenant: str, idempotency_key: str, body_hash: str) -> Submission | None:
        """What the key brought in before: "replayed", or "conflict" if that was another body. None for a new key."""
        key = _idempotency(tenant, idempotency_key)
        found = await self._scripts["known"](keys=[key], args=[body_hash])
        return Submission(found[0], found[1], _first(found[2:])) if found else None

    async def retry(
        self,
        job_id: str,
        tenant: str | None,
        *,
        queue_limit: int, tenant_limit: int, budget: Budget | None = None, cell: str | None = None,
        by: Operator | None = None,
    ) -> Retrial:  # fmt: skip
        """Ask for a failed job again: a new job of this cell, once however often this is called.

        `tenant` None is the operator, who may retry anybody's; `by` has a line of the audit. Raises QueueLost.
        """
        model = await self._redis.hget(keys.JOB + job_id, "model")
        if model is None:
            await self._require_kept([job_id], tenant)
            return Retrial("missing", job_id)
        new = new_job_id(cell)
        head: list[Any] = [job_id, new, tenant or "", queue_limit, tenant_limit, await self.epoch()]
        head += _charged_to(budget)
        head.append(Change.by(by, "retry", job_id, f"runs again as {new}").line() if by else "")
        outcome, found, *left = await self._scripts["retry"](args=head + _flat(rq_hash(new, model)))
        if outcome == "lost":
            raise QueueLost
        if outcome == "created" and not left:
            self.accepted.add(found, tenant)
        return Retrial(outcome, found, Left.of(*left) if outcome == "rate-limited" else None)

    async def retried(self, job_id: str) -> Retrial | None:
        """Replayed, if the job was run again before and the new one is there."""
        new = await self._redis.hget(keys.JOB + job_id, "retried_as")
        return Retrial("replayed", new) if new and await self._redis.exists(keys.JOB + new) else None

    async def require_epoch(self) -> None:
        """Raises QueueLost if this is not the Redis that was there when this store first asked."""
        if await self.epoch() != await self._redis.get(keys.EPOCH):
            raise QueueLost

    async def _require_kept(self, missing: list[str], tenant: str | None) -> None:
        """Raises QueueLost as above, and JobLost if one of these ids is of a job of the tenant that Redis has lost."""
        known = await self.epoch()
        epoch, *owners = await self._redis.mget(keys.EPOCH, *(keys.LOST + job_id for job_id in missing))
        if epoch != known:
            raise QueueLost
        if tenant in owners and tenant is not None:
            raise JobLost(missing[owners.index(tenant)])

    def begin_anew(self) -> None:
        """Take Redis as it is now for the one to trust."""
        self._epoch = ""

    async def epoch(self) -> str:
        """The name of this life of Redis, as this store has first seen it."""
        if not self._epoch:
            await self._redis.set(keys.EPOCH, new_epoch(), nx=True)
            self._epoch = await self._redis.get(keys.EPOCH) or ""
        return self._epoch

    async def get(self, job_id: str, tenant: str) -> Record | None:
        """The record, if it exists and belongs to the tenant. Raises QueueLost rather than deny a job that was."""
        found = await self.get_all([job_id], tenant)
        return found[0] if found else None

    async def get_all(self, job_ids: list[str], tenant: str) -> list[Record]:
        """Those of the records that exist and belong to the tenant. One round trip; raises QueueLost as `get` does."""
        found = await self._read(job_ids)
        if len(found) < len(job_ids):
            await self._require_kept(sorted({*job_ids} - {record.id for record in found}), tenant)
        return [record for record in found if record.tenant == tenant]

    async def list_jobs(
        self, tenant: str, *, limit: int, before: tuple[int, str] | None = None, status: Status | None = None,
        task: Task | None = None, prefix: str | None = None,
    ) -> list[Record]:  # fmt: skip
        """The tenant's jobs, newest first, at most `limit`; `before` is (created_ms, id) of the last one seen."""
        place: dict[str, Any] = {"limit": limit, "before": before, "status": status, "task": task}
        found = await (self._lists.named_like(tenant, prefix, **place) if prefix else self._lists.page(tenant, **place))
        if not found and before is None:
            await self.require_epoch()
        return found

    async def open_jobs(
        self, tenant: str, *, limit: int, status: Status | None = None, task: Task | None = None,
        metadata: dict[str, str] | None = None,
    ) -> list[Record]:  # fmt: skip
        """The tenant's jobs that are not over, newest first: all, or those of a status, a task, or with these notes."""
        return await self._lists.open(tenant, limit=limit, status=status, task=task, metadata=metadata or {})

    async def _read(self, job_ids: list[str]) -> list[Record]:
        """The records that exist, each with its place in the queue, in one round trip."""
        return records_of(await self._scripts["read"](args=["", *job_ids]))

    async def cancel(self, job_id: str, tenant: str) -> Cancel:
        """Call a job off; 'requested' means that its worker was told, 'canceled' that it is, since now or before."""
        return cast(Cancel, await self._scripts["cancel"](args=[job_id, tenant]))

    async def cancel_all(self, job_ids: list[str], tenant: str) -> list[Cancel]:
        """What `cancel` answers for each, in few round trips."""
        outcomes: list[Cancel] = []
        for start in range(0, len(job_ids), CANCELED_AT_ONCE):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in job_ids[start : start + CANCELED_AT_ONCE]:
                    await self._scripts["cancel"](args=[job_id, tenant], client=pipeline)
                outcomes += await pipeline.execute()
        return outcomes

    async def forget(self, job_id: str) -> bool:
        """Remove the record and its events. False while the job is not over."""
        self.accepted.drop(job_id)
        return bool(await self._scripts["forget"](args=[job_id]))

    async def reap(self, *, limit: int = 100) -> Reaped:
        """Judge at most so many leases that have run out."""
        return Reaped(*await self._scripts["reap"](args=[limit]))

    async def try_lock_reaper(self, owner: str, *, seconds: float) -> bool:
        """True for the one gateway that may reap during the next seconds. `owner` names this call, and no other."""
        if await self._redis.set(keys.REAPER_LOCK, owner, nx=True, px=int(seconds * 1000)):
            return True
        # Ours all the same if the first answer was lost and redis-py has said it again.
        return cast(bool, await self._redis.get(keys.REAPER_LOCK) == owner)

    async def expired(self, *, limit: int = 100) -> list[str]:
        """Ids of jobs whose time of keeping is over."""
        return await due(self._redis, keys.EXPIRY, limit=limit)

    async def cancel_waiting(self, model: str) -> int:
        """Call off every job that waits for the model, whoever's it is. How many there were."""
        called_off = 0
        for job_id in await self._redis.zrange(keys.QUEUED + model, 0, -1):
            tenant = await self._redis.hget(keys.JOB + job_id, "tenant")
            called_off += tenant is not None and await self.cancel(job_id, tenant) == "canceled"
        return called_off

    async def position(self, record: Record) -> int | None:
        """How many jobs of the model are claimed before this one, or None if it does not wait."""
        return cast("int | None", await self._redis.zrank(keys.QUEUED + record.model, record.id))

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

    async def preview(self, job_id: str, told: dict[str, Any]) -> str | None:
        """The JPEG, as base64, that a `job.preview` with this data tells of; None once it was replaced or is gone."""
        shown, jpeg = await self._redis.hmget(f"{keys.PREVIEW}{job_id}:{told['index']}", "step", "jpeg")
        return cast("str | None", jpeg) if shown == str(told["step"]) else None

    async def last_event_id(self, job_id: str) -> str:
        """Stream id of the job's newest event, "0-0" if there is none. What is read after it misses nothing."""
        return (await self.last_event_ids([job_id]))[job_id]

    async def last_event_ids(self, job_ids: Collection[str]) -> dict[str, str]:
        """The same of several jobs, by job."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.xrevrange(keys.EVENTS + job_id, count=1)
            newest = await pipeline.execute()
        return {job_id: events[0][0] if events else "0-0" for job_id, events in zip(job_ids, newest, strict=True)}

    async def wait_for_end(self, record: Record, *, seconds: float) -> Record:
        """The record as it is once the job is over, or when the time is up."""
        ends, after = time.monotonic() + seconds, "0"
        while not record.status.is_terminal and (left := ends - time.monotonic()) > 0:
            events = await self.next_events(record.id, after, wait_seconds=min(left, LONGEST_BLOCK))
            if events:
                after = events[-1][0]
            if any(event in FINAL_EVENTS for _, event, _ in events):
                return await self.get(record.id, record.tenant) or record
        return await self.get(record.id, record.tenant) or record


def _first(seen: list[Any]) -> Record | None:
    """The record that an answer brings with it, if it is still there."""
    return next(iter(records_of(seen)), None)


def _idempotency(tenant: str, key: str) -> str:
    return f"{keys.IDEMPOTENCY}{tenant}:{key}"


def _charged_to(budget: Budget | None) -> list[Any]:
    return [budget.counter, budget.allowed] if budget else ["", 0]


def _flat(fields: dict[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
