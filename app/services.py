"""The services that routes call, made once in the lifespan and handed out by dependencies.

Routes know these and nothing below them; tests swap them here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from app.contract.messages.input_id import is_input_id
from app.contract.messages.job import Record, is_job_id
from app.contract.redis.inputs import StoredInput
from app.contract.redis.operations import Operations
from app.contract.redis.outbox import Outbox
from app.contract.redis.overview import Overview
from app.contract.redis.pending_requests import PendingRequests
from app.contract.redis.queue_stats import QueueStats
from app.contract.redis.store import JobStore
from app.contract.redis.usage import UsageStore
from app.contract.redis.webhook_secrets import Secrets
from app.contract.redis.webui import WebUiMemory
from app.edge.auth import Caller
from app.edge.cells import Cells
from app.edge.errors import InputNotFound, JobNotFound
from app.edge.keyring import Keyring
from app.edge.limiter import Limiter
from app.edge.stream_tokens import StreamTokens
from app.jobs.admission import Admission
from app.jobs.cell_mark import CellMark
from app.jobs.follow import Feed
from app.jobs.inputs import Inputs
from app.jobs.model_choice import ModelChoice
from app.jobs.model_registry import ModelRegistry
from app.jobs.readiness import Readiness
from app.jobs.references import References
from app.jobs.retries import Retries
from app.jobs.schemas import JobView
from app.jobs.views import Viewer
from app.jobs.watching import Watching
from app.pictures.store import PictureStore
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may need."""

    settings: Settings
    cells: Cells
    jobs: JobStore
    pictures: PictureStore
    mark: CellMark
    registry: ModelRegistry
    models: ModelChoice
    viewer: Viewer
    inputs: Inputs
    references: References
    admission: Admission
    readiness: Readiness
    feed: Feed
    watching: Watching
    pending: PendingRequests
    outbox: Outbox
    webhook_secrets: Secrets
    keyring: Keyring
    stream_tokens: StreamTokens
    limiter: Limiter
    queue_stats: QueueStats
    overview: Overview
    operations: Operations
    retries: Retries
    usage: UsageStore
    webui: WebUiMemory
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is told to stop: streams end with `retry:` and waits are answered at once."""

    async def record(self, job_id: str, caller: Caller) -> Record:
        """The caller's job. JobNotFound for every other id; Redis is not asked about ids that cannot be."""
        record = await self.jobs.get(job_id, caller.tenant) if is_job_id(job_id) else None
        if record is None:
            raise JobNotFound(self.cells.why_not_here(job_id))
        return record

    async def records(self, job_ids: list[str], caller: Caller) -> list[Record]:
        """The caller's jobs. JobNotFound if any of the ids is another's, or nobody's. No id may be there twice."""
        if not all(is_job_id(job_id) for job_id in job_ids):
            raise JobNotFound
        records = await self.jobs.get_all(job_ids, caller.tenant)
        if missing := sorted({*job_ids} - {record.id for record in records}):
            raise JobNotFound(next(filter(None, map(self.cells.why_not_here, missing)), ""))
        return records

    async def own_input(self, input_id: str, tenant: str) -> StoredInput:
        """The tenant's picture that came in. InputNotFound for every other id."""
        try:
            if is_input_id(input_id):
                return await self.inputs.get(input_id, tenant)
        except InputNotFound:
            pass
        raise InputNotFound(self.cells.why_not_here(input_id))

    async def view(self, record: Record, request: Request) -> JobView:
        """The job as the one who sent the request may see it."""
        return await self.viewer.view(record, base=self.base(request))

    def path(self, path: str) -> str:
        """A path of this service as clients must ask for it, below the prefix of the proxy before it."""
        return self.settings.prefix + path

    def base(self, request: Request) -> str:
        """The gateway's address as the client knows it, without a slash at the end. The guard has judged the Host."""
        scope = request.scope
        own = f"{scope['scheme']}://{request.headers['host']}{scope.get('root_path', '')}"
        return self.settings.public_url or own


def services_of(request: Request) -> Services:
    """For routes that are asked most often: resolving a dependency takes FastAPI longer than this does."""
    return cast(Services, request.app.state.services)


def caller_of(request: Request) -> Caller:
    """Who asks, as the guard has found out."""
    return cast(Caller, request.state.caller)


# Coroutines, although they wait for nothing: FastAPI sends each plain dependency through the thread pool.
async def _services(request: Request) -> Services:
    return services_of(request)


async def _caller(request: Request) -> Caller:
    return caller_of(request)


async def _full_caller(request: Request) -> Caller:
    caller = caller_of(request)
    caller.require_all()
    return caller


async def _own_record(job_id: str, request: Request) -> Record:
    return await services_of(request).record(job_id, caller_of(request))


TheServices = Annotated[Services, Depends(_services)]
TheCaller = Annotated[Caller, Depends(_caller)]
TheFullCaller = Annotated[Caller, Depends(_full_caller)]
"""For routes that answer with a secret, whatever their method: the guard knows methods only."""
OwnRecord = Annotated[Record, Depends(_own_record)]
