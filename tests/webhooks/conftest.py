"""A receiver that follows a script, jobs that owe it a webhook, and the parts that deliver, driven by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
import redis
import redis.asyncio
from opentelemetry.trace import Tracer

from app.contract.messages.card import ModelCard
from app.contract.messages.job import Record, new_job_id
from app.contract.messages.params import JobRequest, Webhook, resolve
from app.contract.redis import keys
from app.contract.redis.outbox import Outbox
from app.contract.redis.store import JobStore, NewJob
from app.contract.redis.webhook_secrets import Secrets
from app.outbound.dial import GuardedBackend
from app.webhooks.deliver import Sender
from app.webhooks.dispatch import Dispatcher
from app.webhooks.options import WebhookOptions
from app.webhooks.relay import Relay
from tests.waiting import WAIT_SECONDS
from tests.webhooks.receivers import Receiver, Step

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.fixture
async def receivers() -> AsyncIterator[Callable[..., Awaitable[Receiver]]]:
    """Makes receivers with a script each."""
    made: list[Receiver] = []

    async def make(*script: Step) -> Receiver:
        receiver = Receiver(list(script))
        await receiver.start()
        made.append(receiver)
        return receiver

    yield make
    for receiver in made:
        await receiver.goes_down()


@pytest.fixture
async def receiver(receivers: Callable[..., Awaitable[Receiver]]) -> Receiver:
    return await receivers()


@pytest.fixture
async def client(redis_client: redis.Redis, valkey_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(valkey_url, decode_responses=True)
    yield client
    await client.aclose()


@pytest.fixture
def outbox(client: redis.asyncio.Redis) -> Outbox:
    return Outbox(client)


@pytest.fixture
def secrets(client: redis.asyncio.Redis) -> Secrets:
    return Secrets(client)


@pytest.fixture
def store(client: redis.asyncio.Redis) -> JobStore:
    return JobStore(client)


@dataclass
class PostOffice:
    """Relay and dispatcher, one round at a time."""

    relay: Relay
    dispatcher: Dispatcher
    sender: Sender

    async def round(self) -> None:
        """Everything that is due now is tried."""
        await self.relay.step()
        await self.dispatcher.take_up()
        await self.dispatcher.idle()


async def _everything_is_here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def plain_view(record: Record) -> dict[str, Any]:
    return {"id": record.id, "status": record.status.value, "prompt": record.spec.prompt}


@pytest.fixture
async def make_office(
    client: redis.asyncio.Redis, outbox: Outbox, secrets: Secrets
) -> AsyncIterator[Callable[..., PostOffice]]:
    """Offices over the same outbox. Names resolve to this machine; `chance` 0.5 is a schedule without jitter."""
    made: list[PostOffice] = []

    def make(
        *,
        ports: tuple[int, ...] = tuple(range(1, 65_536)),
        worker: str = "w1",
        deadline: float = WAIT_SECONDS,
        tracer: Tracer | None = None,
    ) -> PostOffice:
        options = WebhookOptions(allow_http=True, allow_cidrs=LOOPBACK, allow_ports=ports)
        backend = GuardedBackend(allow_cidrs=LOOPBACK, resolver=_everything_is_here)
        sender = Sender(backend, deadline=deadline)
        dispatcher = Dispatcher(
            outbox, secrets, sender, plain_view, options,
            leases=outbox, worker=worker, chance=lambda: 0.5, tracer=tracer,
        )  # fmt: skip
        made.append(PostOffice(Relay(outbox), dispatcher, sender))
        return made[-1]

    yield make
    for office in made:
        await office.dispatcher.give_back()
        await office.sender.aclose()


@pytest.fixture
def office(make_office: Callable[..., PostOffice]) -> PostOffice:
    return make_office()


JobFor = Callable[..., Awaitable[str]]


@pytest.fixture
def job_for_store(card: ModelCard) -> JobFor:
    """Brings in a job whose webhook goes to a URL, and calls it off unless told not to: `job.canceled` is owed."""

    async def submit(
        store: JobStore,
        url: str,
        *,
        events: tuple[str, ...] = ("job.canceled",),
        tenant: str = "ann",
        cancel: bool = True,
        traceparent: str = "",
    ) -> str:
        spec = resolve(JobRequest(prompt="a secret prompt", seed=7), card)
        webhook = Webhook.model_validate({"url": url, "events": list(events)})
        job = NewJob(
            new_job_id(), tenant, spec, retention_ms=600_000, metadata={}, webhook=webhook, traceparent=traceparent
        )
        await store.submit(job, queue_limit=10_000, tenant_limit=10_000)
        if cancel:
            await store.cancel(job.id, tenant)
        return job.id

    return submit


@pytest.fixture
def job_for(store: JobStore, job_for_store: JobFor) -> JobFor:
    """The same, in the common Valkey."""
    return partial(job_for_store, store)


@pytest.fixture
def the_clock_turns(redis_client: redis.Redis) -> Callable[[float], None]:
    """So many seconds pass for the outbox: everything in it is due that much earlier."""

    def turn(seconds: float) -> None:
        for entry in redis_client.zrange(keys.OUTBOX, 0, -1):
            redis_client.zincrby(keys.OUTBOX, -1000 * seconds, entry)

    return turn
