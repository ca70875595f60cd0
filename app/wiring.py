"""What routes work with, made of the settings and two Redis clients: each store and each judge once.

Knows who needs whom. Refuses to know HTTP.
"""

from __future__ import annotations

from functools import partial

import redis.asyncio

from app.contract.redis.clients import async_pool
from app.contract.redis.connections import FairPool, StallAwareRetry
from app.contract.redis.inputs import InputStore
from app.contract.redis.operations import Operations
from app.contract.redis.outbox import Outbox
from app.contract.redis.overview import Overview
from app.contract.redis.pending_requests import PendingRequests
from app.contract.redis.queue_stats import QueueStats
from app.contract.redis.quota import Quota
from app.contract.redis.store import LONGEST_BLOCK, JobStore
from app.contract.redis.streams import EventStreams
from app.contract.redis.usage import UsageStore
from app.contract.redis.watch_marks import WatchMarks
from app.contract.redis.webhook_secrets import Secrets
from app.contract.redis.webui import WebUiMemory
from app.edge.keyring import Keyring
from app.edge.limiter import Limiter
from app.edge.stream_tokens import StreamTokens
from app.jobs.admission import Admission, CheckWebhook
from app.jobs.cell_mark import CellMark
from app.jobs.follow import Feed
from app.jobs.inputs import Inputs
from app.jobs.model_choice import ModelChoice
from app.jobs.model_registry import ModelRegistry
from app.jobs.pictures import open_pictures
from app.jobs.readiness import Readiness
from app.jobs.references import References
from app.jobs.retries import Retries
from app.jobs.room import Room
from app.jobs.views import Viewer
from app.jobs.watching import Watching
from app.outbound.address import check_url
from app.outbound.dial import GuardedBackend
from app.outbound.fetch import Fetcher
from app.services import Services
from app.settings import Settings
from app.webhooks.options import WebhookOptions

COMMAND_SECONDS = 1.5
"""A command that takes longer fails: a caller hears 503 within 2 s."""

CONNECT_SECONDS = 1.5
"""A machine that is gone is given up after this. Any shorter, and a loop busy with hundreds of new clients takes a
connection that is there for one that is not."""

COMMAND_CONNECTIONS = 16
"""Commands take well under a millisecond, so that these carry more than one process can ask. Callers queue for them."""

WAITING_CONNECTIONS = 200
"""One for all streams and waits together, one per deletion of a running job."""


def redis_clients(url: str) -> tuple[redis.asyncio.Redis, redis.asyncio.Redis]:
    """A client for commands, with short timeouts, and one for reads that block. Both decode."""
    commands = async_pool(
        url,
        FairPool,
        decode_responses=True,
        max_connections=COMMAND_CONNECTIONS,
        stalled_seconds=COMMAND_SECONDS,
        socket_timeout=COMMAND_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=StallAwareRetry(seconds=COMMAND_SECONDS),
    )
    waiting = async_pool(
        url,
        redis.asyncio.ConnectionPool,
        decode_responses=True,
        max_connections=WAITING_CONNECTIONS,
        socket_timeout=LONGEST_BLOCK + 2,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=StallAwareRetry(seconds=LONGEST_BLOCK + 2),
    )
    return redis.asyncio.Redis.from_pool(commands), redis.asyncio.Redis.from_pool(waiting)


def open_services(settings: Settings, commands: redis.asyncio.Redis, waiting: redis.asyncio.Redis) -> Services:
    """The services over these clients. ValueError or PictureStoreError for storage that cannot work."""
    jobs = JobStore(commands, waiting=waiting)
    pictures = open_pictures(settings)
    registry = ModelRegistry(jobs)
    choice = ModelChoice(registry, aliases=settings.model_aliases, default=settings.default_model)
    mark = CellMark(jobs, pictures, settings.cell, redis_forgets=settings.redis_durability == "ignore")
    room = Room(registry, pictures, mark, reserve_bytes=settings.storage_reserve_bytes)
    came_in = Inputs(
        InputStore(commands),
        pictures,
        jobs,
        room=room,
        mark=mark,
        most_bytes=settings.input_bytes,
        most_bytes_held=settings.tenant_input_bytes,
        retention_ms=settings.retention_ms,
    )
    overview, operations = Overview(commands), Operations(commands)
    fetch = Fetcher(GuardedBackend()) if settings.fetch_inputs else None
    cells = settings.known_cells()
    references = References(came_in, jobs, pictures, fetch=fetch, cells=cells)
    return Services(
        settings=settings,
        cells=cells,
        jobs=jobs,
        pictures=pictures,
        mark=mark,
        registry=registry,
        models=choice,
        viewer=Viewer(jobs, pictures, registry, link_seconds=settings.picture_url_seconds),
        inputs=came_in,
        references=references,
        admission=Admission(
            jobs, registry, settings, choice, room=room, references=references, check_webhook=webhook_check(settings)
        ),
        readiness=Readiness(jobs, pictures, mark, registry, room, durability=settings.redis_durability),
        feed=Feed(jobs, EventStreams(commands, waiting=waiting), WatchMarks(commands)),
        watching=Watching(WatchMarks(commands)),
        pending=PendingRequests(commands),
        outbox=Outbox(commands),
        webhook_secrets=Secrets(commands),
        keyring=Keyring(commands),
        stream_tokens=StreamTokens(commands),
        limiter=Limiter(Quota(commands)),
        queue_stats=QueueStats(commands),
        overview=overview,
        operations=operations,
        retries=Retries(
            jobs,
            overview,
            operations,
            queue_limit=settings.queue_limit,
            tenant_limit=settings.tenant_limit,
            cell=settings.cell,
            require_store=mark.require,
        ),
        usage=UsageStore(commands),
        webui=WebUiMemory(commands),
    )


def webhook_check(settings: Settings) -> CheckWebhook:
    """Judges a webhook's URL as delivery will, as far as that is possible without resolving its name."""
    options = WebhookOptions.from_settings(settings)
    return partial(
        check_url, allow_http=options.allow_http, allow_ports=options.allow_ports, allow_cidrs=options.allow_cidrs
    )
