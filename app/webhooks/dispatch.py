"""Takes ids from RQ's queue and carries each to its end: delivered, planned again, disabled or exhausted.

Many tries are in flight at once, each a task of its own. Knows no sockets and no signals. The outbox is the truth: a
try whose process dies is taken up again when its lease has run out.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import redis
import structlog
from opentelemetry.trace import Tracer

from app.contract.messages.job import Record, new_token
from app.contract.redis import outbox as contract
from app.contract.redis.outbox import Delivery, Outbox, Try
from app.contract.redis.webhook_secrets import Secrets
from app.outbound.address import Target, WebhookRefused, check_url
from app.webhooks.deliver import Answer, Sender, Verdict
from app.webhooks.options import IN_FLIGHT, PER_HOST, PER_TENANT, WebhookOptions
from app.webhooks.schedule import next_delay_ms, retry_after_seconds
from app.webhooks.sign import message_id, signed_headers
from app.webhooks.tracing import traced
from app.webhooks.turns import Turns

log = structlog.get_logger()

View = Callable[[Record], Awaitable[dict[str, Any]]]
"""A record as its owner sees it over the API it came in by, ready for JSON."""

SETTLE_PAUSE = 0.2
"""Seconds between two attempts to say how a try ended while Redis is away: before its own loop would take it again."""


class Dispatcher:
    """Tries in flight. `take_up`, `beat` and `give_back` raise redis.RedisError while Redis is away.

    `leases` is the same outbox over connections on which nothing else can hang.
    """

    def __init__(
        self,
        outbox: Outbox,
        secrets: Secrets,
        sender: Sender,
        view: View,
        options: WebhookOptions,
        *,
        leases: Outbox,
        worker: str,
        chance: Callable[[], float] = random.random,
        tracer: Tracer | None = None,
    ) -> None:
        self._outbox = outbox
        self._leases = leases
        self._secrets = secrets
        self._sender = sender
        self._view = view
        self._options = options
        self._worker = worker
        self._chance = chance
        self._tracer = tracer
        self._hosts = Turns(PER_HOST)
        self._tenants = Turns(PER_TENANT)
        self._in_flight: dict[str, Try] = {}
        self._next_token = new_token()
        self._tasks: set[asyncio.Task[None]] = set()
        self.freed = asyncio.Event()
        """Set when a try has ended: there may be room again."""

    async def take_up(self) -> int:
        """Begin as many tries as there is room for; answers how many."""
        begun = 0
        while len(self._tasks) < IN_FLIGHT and (one := await self._take()):
            self._in_flight[one.token] = one
            task = asyncio.create_task(self._carry(one), name=f"webhook {one.entry}")
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            begun += 1
        return begun

    async def _take(self) -> Try | None:
        """A token is used until it has an answer: the try that was perhaps taken is the one that comes."""
        one = await self._outbox.take(self._worker, self._next_token)
        self._next_token = new_token()
        return one

    async def beat(self) -> None:
        """Keep what is in flight ours."""
        await self._leases.beat(list(self._in_flight.values()))

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def give_back(self) -> int:
        """Break off what is in flight; its tries do not count and are due at once, for any process."""
        for task in self._tasks:
            task.cancel()
        await self.idle()
        left = list(self._in_flight.values())
        for one in left:
            await self._outbox.settle(one, "postponed")
        self._in_flight.clear()
        return len(left)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.freed.set()

    async def _carry(self, one: Try) -> None:
        try:
            await self._conclude(one)
        except redis.RedisError as error:
            # Only what comes before the sending raises it: the message has not gone out, and need not wait for a lease.
            log.warning("redis is away, the try begins anew", entry=one.entry, error=type(error).__name__)
            await self._settle(one, "postponed")
        except Exception:
            # Counted like a failure of the receiver: our own mistake must end as well, and be seen.
            log.exception("webhook try broke", entry=one.entry)
            await self._close(one, Answer(detail="The message could not be made; the operator's log says why."), 0)
        self._in_flight.pop(one.token, None)

    async def _conclude(self, one: Try) -> None:
        """Decide what this entry needs: nothing any more, a later turn, or a try."""
        record = one.record()
        if record is None or record.webhook is None:
            log.warning("nothing is known of the job any more, its webhook is given up", entry=one.entry)
            await self._settle(one, "over")
        elif one.disabled:
            detail = "The receiver said 410 Gone before; send again by hand if it is back."
            await self._settle(one, "disabled", log_line=self._line(one, Verdict.DISABLED, Answer(detail=detail), 0))
        else:
            await self._in_turn(one, record, record.webhook.url)

    async def _in_turn(self, one: Try, record: Record, url: str) -> None:
        try:
            target = self._target(url)
        except WebhookRefused as refusal:
            await self._close(one, Answer(detail=str(refusal)), 0)
            return
        began = _clock()
        wait = self._enter(target.host, record.tenant, began)
        if wait:
            await self._settle(one, "postponed", delay_ms=int(wait * 1000))
            return
        try:
            answer, took_ms = await self._send(one, record, target)
        finally:
            now = _clock()
            self._hosts.leave(target.host, now, took=now - began)
            self._tenants.leave(record.tenant, now, took=now - began)
        await self._close(one, answer, took_ms)

    def _target(self, url: str) -> Target:
        """Judged at the submit, and now: the operator's mind may have changed."""
        options = self._options
        return check_url(
            url, allow_http=options.allow_http, allow_ports=options.allow_ports, allow_cidrs=options.allow_cidrs
        )

    def _enter(self, host: str, tenant: str, now: float) -> float:
        wait = self._hosts.enter(host, now)
        if not wait:
            wait = self._tenants.enter(tenant, now)
            if wait:
                self._hosts.leave(host, now)
        return wait

    async def _send(self, one: Try, record: Record, target: Target) -> tuple[Answer, int]:
        message = await self._view(record)
        if record.webhook is None or record.webhook.form == "event":
            message = {"type": one.event, "timestamp": _moment(one.fact_ms).isoformat(), "data": message}
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        secrets = await self._secrets.current(record.tenant)
        own = {name.lower(): value for name, value in record.webhook_headers.items()}
        headers = own | signed_headers(one.entry, body, secrets, at=_moment(one.now_ms))
        began = _clock()
        answer = await traced(self._tracer, one, self._sender.post(target, headers, body))
        return answer, int((_clock() - began) * 1000)

    async def _close(self, one: Try, answer: Answer, took_ms: int) -> None:
        """Say in the log and the outbox what the answer means."""
        verdict = answer.verdict
        said = log.bind(entry=one.entry, number=one.number, status=answer.status, took_ms=took_ms)
        if verdict is not Verdict.FAILED:
            said.info(f"webhook {verdict}")
            ends: contract.Verdict = "over" if verdict is Verdict.DELIVERED else "disabled"
            await self._settle(one, ends, log_line=self._line(one, verdict, answer, took_ms))
            return
        pause = retry_after_seconds(answer.retry_after, now=_moment(one.now_ms))
        delay = next_delay_ms(one.number, retry_after=pause, chance=self._chance())
        said.warning("webhook failed", detail=answer.detail, next_in_ms=delay)
        line = self._line(one, verdict, answer, took_ms, delay_ms=delay)
        await self._settle(one, "over" if delay is None else "again", delay_ms=delay or 0, log_line=line)

    def _line(
        self, one: Try, verdict: Verdict, answer: Answer, took_ms: int, *, delay_ms: int | None = None
    ) -> Delivery:
        exhausted = verdict is Verdict.FAILED and delay_ms is None
        return Delivery(
            webhook_id=message_id(one.entry),
            event=one.event,
            number=one.number,
            outcome="exhausted" if exhausted else verdict.value,
            status=answer.status,
            detail=answer.detail,
            at_ms=one.now_ms,
            took_ms=took_ms,
            next_ms=None if delay_ms is None else one.now_ms + took_ms + delay_ms,
        )

    async def _settle(
        self, one: Try, verdict: contract.Verdict, *, delay_ms: int = 0, log_line: Delivery | None = None
    ) -> None:
        """Outlives an outage of Redis: what a receiver has answered must not be forgotten."""
        while True:
            try:
                kept = await self._outbox.settle(one, verdict, delay_ms=delay_ms, log=log_line)
            except redis.RedisError:
                await asyncio.sleep(SETTLE_PAUSE)
                continue
            if not kept and one.fields:
                log.warning("another process took this webhook up meanwhile", entry=one.entry)
            return


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
