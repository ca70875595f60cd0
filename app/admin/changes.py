"""What an operator changes: models paused and resumed, workers drained and undrained, callers' jobs canceled, failed
jobs run again.

Each may be sent again after an answer that was lost. Every body is JSON, `{}` at least: a page of somebody else's can
send a browser's POST without one, unasked.
"""

from __future__ import annotations

from typing import Annotated, Literal

import structlog
from fastapi import Path
from pydantic import Field

from app.admin.access import TheOperator, operators_router
from app.admin.routes import UNHEARD_OF, model_view
from app.admin.schemas import AdminModelView, DrainView, RerunList, RerunView
from app.contract.messages import patterns
from app.contract.messages.audit import Change, Operator
from app.contract.messages.events import Status
from app.contract.messages.job import is_job_id
from app.contract.messages.request_body import RequestBody
from app.edge import errors
from app.edge.auth import Caller
from app.edge.problem import Problem
from app.edge.tracing import note_change
from app.jobs.cancel import Cancellation, cancel_all
from app.jobs.retries import REFUSALS, Rerun
from app.routes.answers import ACCESS, BODY, QUEUE, problems, read_cursor, write_cursor_at
from app.services import Services, TheServices

log = structlog.get_logger()

router = operators_router()

CANCELED_AT_MOST = 500
"""Jobs of one request: a tenth of a second of Redis' time, in pieces."""

CANCEL_BEGUN = f"begun: {CANCELED_AT_MOST} jobs at most"
"""What the audit says until it is known how many there were."""

LONGEST_PAUSE = 30 * 86_400
"""Seconds. Who pauses a model for longer does not know when it ends."""

CHANGING = (*ACCESS, *BODY, errors.InvalidRequest, *QUEUE)

Tenant = Annotated[str, Path(pattern=patterns.TENANT, description="Whose jobs")]


class PauseRequest(RequestBody):
    """How a model is paused. `{}`: jobs come in and wait, until somebody resumes it."""

    accepts: bool = Field(default=True, description="false: further jobs are refused with 503 `model-paused`")
    seconds: float | None = Field(
        default=None, ge=1, le=LONGEST_PAUSE, description="It ends by itself after so long; callers are told when"
    )
    reason: str = Field(
        default="", max_length=200, pattern=patterns.ONE_LINE, description="Callers who wait are shown it"
    )


class EmptyRequest(RequestBody):
    """Nothing has to be said."""


class CancelRequest(RequestBody):
    """Which of a caller's unfinished jobs: all of them, unless something is said."""

    status: Literal["queued", "running"] | None = Field(default=None, description="Only jobs in this state")


class RetryRequest(RequestBody):
    """How far to go."""

    limit: int = Field(default=100, ge=1, le=100, description="Jobs of one request, at most")
    cursor: str | None = Field(default=None, max_length=128, description="`next_cursor` of the answer before")


@router.post(
    "/models/{model:path}/pause",
    response_model=AdminModelView,
    summary="Have nobody claim a model's jobs",
    responses=problems(*CHANGING, errors.ModelNotFound),
)
async def pause(model: str, body: PauseRequest, services: TheServices, caller: TheOperator) -> AdminModelView:
    """Jobs that run go on to their end. Of a model that is paused, this changes how."""
    name = await _own_name(services, model)
    by = operator_of(caller)
    if not await services.operations.pause(name, by, accepts=body.accepts, reason=body.reason, seconds=body.seconds):
        raise errors.ModelNotFound
    tell(caller, "pause", name, "paused")
    return await _model_now(services, name)


@router.post(
    "/models/{model:path}/resume",
    response_model=AdminModelView,
    summary="Have a model's jobs claimed again",
    responses=problems(*CHANGING, errors.ModelNotFound),
)
async def resume(model: str, body: EmptyRequest, services: TheServices, caller: TheOperator) -> AdminModelView:
    """Of one that is not paused, nothing changes."""
    name = await _own_name(services, model)
    if not await services.operations.resume(name, operator_of(caller)):
        raise errors.ModelNotFound
    tell(caller, "resume", name, "resumed")
    return await _model_now(services, name)


@router.post(
    "/workers/{worker}/drain",
    response_model=DrainView,
    summary="Have a worker finish its jobs and leave",
    responses=problems(*CHANGING, errors.WorkerNotFound, errors.WorkerCannotDrain),
)
async def drain(worker: str, body: EmptyRequest, services: TheServices, caller: TheOperator) -> DrainView:
    """It takes no more jobs, finishes those that it has, however long they take, and ends with exit code 79. For a day
    after, this says whether it has left."""
    outcome = await services.operations.drain(worker, operator_of(caller))
    if outcome == "missing":
        raise errors.WorkerNotFound(UNHEARD_OF)
    if outcome == "deaf":
        raise errors.WorkerCannotDrain("It is of a release that cannot be told: send it SIGTERM.")
    tell(caller, "drain", worker, outcome)
    return DrainView(worker=worker, state=outcome)


@router.post(
    "/workers/{worker}/undrain",
    response_model=DrainView,
    summary="Take a drain back",
    responses=problems(*CHANGING, errors.WorkerNotFound, errors.WorkerHasLeft),
)
async def undrain(worker: str, body: EmptyRequest, services: TheServices, caller: TheOperator) -> DrainView:
    """It takes jobs again, as long as it has not left. Of one that is not drained, nothing changes."""
    outcome = await services.operations.undrain(worker, operator_of(caller))
    if outcome == "missing":
        raise errors.WorkerNotFound(UNHEARD_OF)
    if outcome == "left":
        raise errors.WorkerHasLeft
    tell(caller, "undrain", worker, outcome)
    return DrainView(worker=worker, state=outcome)


@router.post(
    "/tenants/{tenant}/cancel",
    response_model=Cancellation,
    summary="Call a caller's jobs off",
    responses=problems(*CHANGING),
)
async def cancel(tenant: Tenant, body: CancelRequest, services: TheServices, caller: TheOperator) -> Cancellation:
    """The newest first, at most 500 in one answer; while `has_more`, send it again. Of a tenant that has none, or that
    nobody has heard of, none are canceled."""
    status = Status(body.status) if body.status else None
    line = await services.operations.begin(Change.by(operator_of(caller), "cancel", tenant, CANCEL_BEGUN))
    done = await cancel_all(services.jobs, tenant, limit=CANCELED_AT_MOST, status=status)
    which = f", {body.status} jobs only" if body.status else ""
    outcome = f"{len(done.canceled)} canceled, {len(done.requested)} told to stop{which}"
    await services.operations.end(line, outcome if done.canceled or done.requested else "")
    tell(caller, "cancel", tenant, outcome)
    return done


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    response_model=RerunView,
    summary="Run anybody's failed job again",
    responses=problems(*CHANGING, errors.JobNotFound, errors.JobNotRetryable, errors.QueueFull, errors.TooManyJobs),
)
async def retry(job_id: str, body: EmptyRequest, services: TheServices, caller: TheOperator) -> RerunView:
    """A new job of the same owner with the same parameters, the drawn seed included; asked again, the same one."""
    if not is_job_id(job_id):
        raise errors.JobNotFound
    done = await services.retries.one(job_id, operator_of(caller))
    if done.refusal is not None:
        raise _refused(done)
    tell(caller, "retry", job_id, "runs again")
    return RerunView.of(done)


@router.post(
    "/dead/retry",
    response_model=RerunList,
    summary="Run dead jobs again",
    responses=problems(*CHANGING),
)
async def retry_dead(body: RetryRequest, services: TheServices, caller: TheOperator) -> RerunList:
    """The latest first. What cannot be run again stays dead, and says why; follow `next_cursor` until it is null."""
    done, place = await services.retries.dead(operator_of(caller), limit=body.limit, before=read_cursor(body.cursor))
    tell(caller, "retry", "dead", f"{sum(each.is_new for each in done)} run again")
    return RerunList(data=[RerunView.of(each) for each in done], next_cursor=place and write_cursor_at(*place))


async def _own_name(services: Services, name: str) -> str:
    """The model's own, of any of its names. Raises ModelNotFound."""
    found = await services.models.named(name)
    if found is None:
        raise errors.ModelNotFound
    return found.card.name


async def _model_now(services: Services, name: str) -> AdminModelView:
    model = (await services.registry.look_again()).get(name)
    if model is None:
        raise errors.ModelNotFound
    return await model_view(services, model)


def operator_of(caller: Caller) -> Operator:
    return Operator(caller.tenant, caller.key_id, "api")


def tell(caller: Caller, action: str, target: str, outcome: str) -> None:
    log.info("operator", action=action, target=target, outcome=outcome, key_id=caller.key_id)
    note_change(action, outcome)


def _refused(done: Rerun) -> Problem:
    said = REFUSALS[done.refusal or "missing"]
    detail = f"{said[0].upper()}{said[1:]}."
    kinds = {"missing": errors.JobNotFound, "queue-full": errors.QueueFull, "tenant-full": errors.TooManyJobs}
    return kinds.get(done.refusal or "missing", errors.JobNotRetryable)(detail)
