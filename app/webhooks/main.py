"""The webhooks process: wires the parts, runs the loop, stops on a signal. Imports no torch and serves no HTTP.

Due entry -> id on RQ's queue (relay) -> a try with an owner (dispatch) -> judged address (address, dial) -> signed body
(sign) -> answer (deliver) -> end or next try (schedule).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import redis
import redis.asyncio
import structlog
from opentelemetry.trace import Tracer
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from app import __version__
from app.contract.common.exits import CANNOT_START
from app.contract.common.tracing import close_provider, open_provider
from app.contract.messages.job import Record
from app.contract.redis import clients
from app.contract.redis.outbox import Outbox
from app.contract.redis.store import JobStore
from app.contract.redis.webhook_secrets import Secrets
from app.jobs.model_registry import ModelRegistry
from app.jobs.pictures import open_pictures
from app.jobs.views import Viewer
from app.outbound.dial import GuardedBackend
from app.pictures.errors import PictureStoreError
from app.pictures.store import PictureStore
from app.replicate.schemas import prediction
from app.settings import Settings
from app.webhooks.deliver import Sender
from app.webhooks.dispatch import Dispatcher, View
from app.webhooks.options import WebhookOptions
from app.webhooks.registration import HEARTBEAT_SECONDS, Registration, process_name
from app.webhooks.relay import Relay

log = structlog.get_logger()

POLL_SECONDS = 0.25
"""Between two looks at the outbox. Nothing announces an entry; one cheap script call four times a second finds it."""

BEAT_SECONDS = 1.0
"""A quarter of the lease: two beats may be lost."""

LEASE_SECONDS = 0.8
"""For one beat, on connections that nothing else uses: shorter than the pause between two, so that a connection which
swallows what is sent costs one beat and no lease. Commands may hang for longer than a lease lasts."""

OUTAGE_PAUSE = 0.5
CONNECTIONS = 16
"""To Redis. Tries in flight queue for one when many end at once."""

FLUSH_SECONDS = 2.0
"""For Redis at the end; without it, what was in flight comes back when its lease has run out."""


def run(settings: Settings) -> int:
    """Deliver webhooks until SIGTERM or SIGINT. Returns the exit code."""
    try:
        options = WebhookOptions.from_settings(settings)
        pictures = open_pictures(settings)
        if not settings.signing_key and not pictures.can_sign:
            raise ValueError("no gateway would open the picture links made here: set its DARKROOM_SIGNING_KEY here too")
        if fault := clients.why_refused(settings.redis_url.get_secret_value()):
            raise ValueError(fault)
    except (ValueError, OSError, PictureStoreError) as error:
        print(f"darkroom webhooks: {error}", file=sys.stderr)
        return CANNOT_START
    if settings.public_url is None:
        log.warning("links in webhooks name this machine; set DARKROOM_PUBLIC_URL", links=settings.own_url)
    asyncio.run(_serve(settings, options, pictures))
    return 0


def viewer(settings: Settings, client: redis.asyncio.Redis, pictures: PictureStore) -> View:
    """The view of a job that its API has. Without `public_url`, links name the address the gateway listens on."""
    store = JobStore(client)
    registry = ModelRegistry(store)
    views = Viewer(store, pictures, registry, link_seconds=settings.picture_url_seconds)
    base = settings.public_url or settings.own_url

    async def view(record: Record) -> dict[str, Any]:
        seen = await views.view(record, base=base)
        if record.webhook is not None and record.webhook.form == "prediction":
            return prediction(seen, await registry.models(), base=base).model_dump(mode="json")
        return seen.model_dump(mode="json")

    return view


async def _serve(settings: Settings, options: WebhookOptions, pictures: PictureStore) -> None:
    stop, hurry = _signals()
    url, name = settings.redis_url.get_secret_value(), process_name()
    async with (
        _tracing() as tracer,
        _clients(url) as (client, leasing, rq),
        contextlib.aclosing(_sender(options)) as sender,
    ):
        outbox = Outbox(client)
        view = viewer(settings, client, pictures)
        dispatcher = Dispatcher(
            outbox, Secrets(client), sender, view, options, leases=Outbox(leasing), worker=name, tracer=tracer
        )
        registration = Registration(rq, name)
        beats = [
            asyncio.create_task(_again_and_again(dispatcher.beat, BEAT_SECONDS)),
            asyncio.create_task(_again_and_again(lambda: asyncio.to_thread(registration.renew), HEARTBEAT_SECONDS)),
        ]
        log.info("webhooks started", worker=name, allow_http=options.allow_http)
        await deliver_until(stop, Relay(outbox), dispatcher)
        await _finish(dispatcher, hurry, options.grace_seconds)
        for task in beats:
            task.cancel()
        with contextlib.suppress(redis.RedisError, TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(registration.leave), FLUSH_SECONDS)
        log.info("webhooks stopped")


@contextlib.asynccontextmanager
async def _tracing() -> AsyncIterator[Tracer | None]:
    """A tracer, or None where nobody wants traces. What was traced is handed over at the end, after a crash too."""
    provider = open_provider("darkroom-webhooks", version=__version__)
    try:
        yield provider.get_tracer("darkroom.webhooks", __version__) if provider else None
    finally:
        if provider is not None:
            await asyncio.to_thread(close_provider, provider)


async def deliver_until(stop: asyncio.Event, relay: Relay, dispatcher: Dispatcher) -> None:
    """The loop: relay what is due, take up what there is room for, wait a little. Outlives outages of Redis."""
    away = False
    while not stop.is_set():
        dispatcher.freed.clear()
        try:
            await relay.step()
            await dispatcher.take_up()
        except redis.RedisError as error:
            if not away:
                log.warning("redis is away", error=type(error).__name__)
            away = True
            await _first_of(stop.wait(), seconds=OUTAGE_PAUSE)
            continue
        if away:
            log.info("redis is back")
        away = False
        await _first_of(stop.wait(), dispatcher.freed.wait(), seconds=POLL_SECONDS)


async def _finish(dispatcher: Dispatcher, hurry: asyncio.Event, grace: float) -> None:
    """Let what is in flight end, give the rest back. A second signal ends the waiting."""
    await _first_of(dispatcher.idle(), hurry.wait(), seconds=grace)
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            given_back = await dispatcher.give_back()
    except (redis.RedisError, TimeoutError):
        log.warning("redis is away, what was in flight is left to its lease")
    else:
        log.info("tries given back", count=given_back)


async def _again_and_again(action: Callable[[], Awaitable[Any]], seconds: float) -> None:
    """Until cancelled. The main loop is the one that reports an outage."""
    while True:
        with contextlib.suppress(redis.RedisError):
            await action()
        await asyncio.sleep(seconds)


async def _first_of(*waits: Awaitable[Any], seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Events for the first signal and for the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def heard() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, heard)
    return stop, hurry


@contextlib.asynccontextmanager
async def _clients(url: str) -> AsyncIterator[tuple[redis.asyncio.Redis, redis.asyncio.Redis, redis.Redis]]:
    """For the scripts, for the leases alone, and for RQ. None outlives an outage by itself: the loops here know how.

    A single connection of the scripts that breaks is no outage: they recognise a call that is made again, so it is.
    """

    def pool(connections: int, seconds: float, *, again: int = 0) -> redis.asyncio.BlockingConnectionPool:
        return clients.async_pool(
            url,
            redis.asyncio.BlockingConnectionPool,
            max_connections=connections,
            decode_responses=True,
            socket_timeout=seconds,
            socket_connect_timeout=min(seconds, 2),
            retry=AsyncRetry(ExponentialBackoff(cap=0.1, base=0.02), again, supported_errors=(redis.ConnectionError,)),
        )

    client = redis.asyncio.Redis.from_pool(pool(CONNECTIONS, 5, again=2))
    leasing = redis.asyncio.Redis.from_pool(pool(1, LEASE_SECONDS))
    rq = clients.client(url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        yield client, leasing, rq
    finally:
        await client.aclose()
        await leasing.aclose()
        rq.close()


def _sender(options: WebhookOptions) -> Sender:
    return Sender(GuardedBackend(allow_cidrs=options.allow_cidrs))
