"""Which job a waiting request waits for: its own, or that of an equal request whose caller has left without an answer.

Clients and proxies that give up early ask again, and would have everything drawn twice. Two requests are equal that
come with the same API key and ask for the same. What has an Idempotency-Key says by that who it is.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha256

import redis
import structlog
from starlette.requests import Request

from app.contract.messages.events import Status
from app.contract.messages.job import Record, new_token
from app.contract.redis.pending_requests import PendingRequests
from app.edge.auth import Caller
from app.edge.bodies import Body
from app.edge.guard import body_of
from app.edge.problem import Problem
from app.jobs.admission import AnyRequest, body_hash, valid_idempotency_key
from app.pictures.errors import PictureStoreError
from app.services import Services

log = structlog.get_logger()

LATE_SECONDS = 120.0
"""So long after its end a job is still joined by a request that does not say that it was tried before: a client pauses
before it asks again. Later, somebody may want another picture of the same words."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request and the job that it waits for. `is_own`: it brought the job in.

    Methods other than `give_up` swallow redis.RedisError: the worst that follows is a picture drawn twice.
    """

    record: Record
    is_own: bool
    _pending: PendingRequests
    _name: str | None
    _waiter: str

    async def go_on(self) -> None:
        """To be said now and then by those who wait for longer than a minute."""
        if self._name:
            with _forgiven("a waiting request"):
                await self._pending.wait(self._name, self.record.id, self._waiter)

    async def answered(self) -> None:
        """The caller has, or is about to have, what leads to the job."""
        if self._name:
            with _forgiven("an answer"):
                await self._pending.answered(self._name, self.record.id)

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Around what makes the answer. An error that asks the caller to come again leaves the job to be joined."""
        try:
            yield
        except (Problem, redis.RedisError, PictureStoreError):
            await self.leave()
            raise
        await self.answered()

    async def leave(self) -> None:
        """The caller has gone, or goes without what leads to the job."""
        if self._name:
            with _forgiven("a departure"):
                await self._pending.leave(self._name, self.record.id, self._waiter)

    async def give_up(self) -> bool:
        """The caller has gone, and nobody shall join. False if somebody has already."""
        return self._name is None or await self._pending.give_up(self._name, self.record.id, self._waiter)


async def admit(
    services: Services,
    parameters: AnyRequest,
    caller: Caller,
    request: Request,
    *,
    waits: bool,
    is_awaited: bool = True,
    again: bool = False,
) -> Waiting:
    """The job of a request: a new one or, if it `waits`, that of an equal request whose caller has left.

    `again`: the request says that it was tried before, and joins a job that somebody seems to wait for, too.
    Raises what Admission.submit does; `is_awaited` is its. What was large in the request's body is gone afterwards: a
    request may wait for minutes.
    """
    body = body_of(request.scope)
    try:
        return await _admitted(services, parameters, caller, request, body, waits, is_awaited, again)
    finally:
        if body is not None:
            body.close()


async def _admitted(
    services: Services,
    parameters: AnyRequest,
    caller: Caller,
    request: Request,
    body: Body | None,
    waits: bool,
    is_awaited: bool,
    again: bool,
) -> Waiting:
    key = valid_idempotency_key(request.headers.getlist("idempotency-key"))
    name, waiter = _name(parameters, caller) if waits and key is None else None, new_token()
    record = await _joined(services, caller, name, waiter, again=again) if name else None
    if record is not None:
        return Waiting(record, False, services.pending, name, waiter)
    traceparent = request.headers.get("traceparent")
    admitted = await services.admission.submit(
        parameters, caller, idempotency_key=key, traceparent=traceparent, is_awaited=is_awaited, body=body
    )
    waiting = Waiting(admitted.record, not admitted.replayed, services.pending, name, waiter)
    await waiting.go_on()
    return waiting


def _name(parameters: AnyRequest, caller: Caller) -> str:
    return sha256(f"{caller.tenant} {caller.key_id} {body_hash(parameters)}".encode()).hexdigest()


async def _joined(services: Services, caller: Caller, name: str, waiter: str, *, again: bool) -> Record | None:
    while (job_id := await services.pending.join(name, waiter, again=again)) is not None:
        record = await services.jobs.get(job_id, caller.tenant)
        if record is not None and _is_wanted(record, again=again):
            log.info("request joins a job", job_id=record.id, again=again)
            return record
        await services.pending.answered(name, job_id)
    return None


def _is_wanted(record: Record, *, again: bool) -> bool:
    if record.status is Status.SUCCEEDED:
        return again or time.time() - (record.ended_ms or 0) / 1_000 < LATE_SECONDS
    return not record.status.is_terminal and not record.cancel


@contextmanager
def _forgiven(what: str) -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        log.warning(f"{what} could not be noted", error=type(error).__name__)
