"""Jobs: send one in, ask for one or many, call one off, delete one."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.contract.messages import patterns
from app.contract.messages.events import Status
from app.contract.messages.params import JobRequest, Metadata
from app.contract.messages.questions import Task
from app.contract.messages.request_body import RequestBody
from app.edge import errors
from app.edge.head import is_head
from app.edge.waiting import wait_for
from app.jobs.cancel import Cancellation, cancel_all, cancel_job, remove_job, stop_job
from app.jobs.schemas import JobList, JobView
from app.routes.answers import (
    ACCESS,
    BODY,
    LONGEST_WAIT,
    QUEUE,
    SUBMIT,
    TRACEPARENT,
    described,
    etag_matches,
    next_change,
    problems,
    read_cursor,
    render,
    wait_wanted,
    write_cursor,
)
from app.routes.joining import admit
from app.routes.waiting import answer_in_time
from app.services import OwnRecord, TheCaller, TheServices, caller_of, services_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

CANCELED_AT_MOST = 500
"""Jobs of one request: a tenth of a second of Redis' time, in pieces."""

PREFER = {
    "name": "Prefer",
    "description": "`wait=30`: answer when the job is over, at most 60 s. Beside it, `cancel-on-disconnect`: call the "
    "job off if you leave before; `heartbeat`: 202 at once, and white space before the body until there is one",
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "description": "1 to 255 characters. The same key and body within 24 h name the same job",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    summary="Send a job in",
    responses={
        200: {"model": JobView, "description": "`Prefer: wait=N` was asked for, and the job ended in time"},
        202: {"description": "Accepted. Location says where it is, Retry-After when to ask"},
        **problems(
            *ACCESS,
            *SUBMIT,
            errors.JobDeleted,
            errors.IdempotencyKeyReused,
        ),
    },
    openapi_extra=described(PREFER, IDEMPOTENCY_KEY, TRACEPARENT),
)
async def submit(body: JobRequest, request: Request) -> Response:
    """The answer shows every parameter with the value that will be used, the drawn seed included."""
    services, caller = services_of(request), caller_of(request)
    seconds = wait_wanted(request.headers.getlist("prefer"))
    waiting = await admit(services, body, caller, request, waits=seconds is not None, is_awaited=False)
    return await answer_in_time(services, waiting, request, seconds=seconds)


@router.get(
    "",
    response_model=JobList,
    summary="List your jobs, newest first",
    responses=problems(*ACCESS, errors.InvalidRequest, *QUEUE, errors.PicturesUnavailable),
)
async def list_jobs(
    request: Request,
    services: TheServices,
    caller: TheCaller,
    status: Annotated[Status | None, Query(description="Only jobs in this state")] = None,
    task: Annotated[Task | None, Query(description="Only jobs that do this")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=128, description="`next_cursor` of the page before")] = None,
    id_prefix: Annotated[
        str | None, Query(pattern=patterns.JOB_ID_PREFIX, description="Only jobs whose ids begin so")
    ] = None,
) -> JobList:
    """A page at a time; follow `next_cursor` until it is null."""
    records = await services.jobs.list_jobs(
        caller.tenant, limit=limit + 1, before=read_cursor(cursor), status=status, task=task, prefix=id_prefix
    )
    views = await asyncio.gather(*(services.view(record, request) for record in records[:limit]))
    more = len(records) > limit
    return JobList(data=list(views), next_cursor=write_cursor(records[limit - 1]) if more else None)


class CancelRequest(RequestBody):
    """Which of the caller's unfinished jobs: all of them, unless something is said."""

    status: Literal["queued", "running"] | None = Field(default=None, description="Only jobs in this state")
    metadata: Metadata = Field(default_factory=dict, description="Only jobs with all of these notes")


@router.post(
    "/cancel",
    response_model=Cancellation,
    summary="Call many jobs off",
    responses=problems(*ACCESS, *BODY, errors.InvalidRequest, *QUEUE),
)
async def cancel_many(body: CancelRequest, services: TheServices, caller: TheCaller) -> Cancellation:
    """The newest first, at most 500 in one answer; while `has_more`, send it again. `{}` means all."""
    status = Status(body.status) if body.status else None
    return await cancel_all(services.jobs, caller.tenant, limit=CANCELED_AT_MOST, status=status, metadata=body.metadata)


@router.get(
    "/{job_id}",
    response_model=JobView,
    summary="Ask for a job",
    responses={
        304: {"description": "Nothing changed since the answer with the ETag in If-None-Match"},
        **problems(*ACCESS, errors.JobNotFound, errors.InvalidRequest, *QUEUE, errors.PicturesUnavailable),
    },
)
async def get_job(
    record: OwnRecord,
    request: Request,
    wait: Annotated[
        int, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for a change, if it is not over")
    ] = 0,
    if_none_match: Annotated[str | None, Header(description="ETag of an earlier answer")] = None,
) -> Response:
    """With `wait`, the answer comes as soon as the job differs from If-None-Match, or from now without one."""
    services = services_of(request)
    await services.watching.looked_at(record)
    rendered = await render(services, record, request)
    known = etag_matches(if_none_match, rendered.etag)
    if wait and not is_head(request) and not record.status.is_terminal and (known or if_none_match is None):
        change = next_change(services, rendered, request, seconds=wait)
        rendered = await wait_for(request, change, closing=services.closing) or rendered
    if etag_matches(if_none_match, rendered.etag):
        return Response(status_code=304, headers=rendered.headers)
    return Response(rendered.body, headers=rendered.headers, media_type="application/json")


@router.post(
    "/{job_id}/cancel",
    response_model=JobView,
    summary="Call a job off",
    responses=problems(*ACCESS, errors.JobNotFound, errors.JobIsOver, *QUEUE, errors.PicturesUnavailable),
)
async def cancel(record: OwnRecord, request: Request, services: TheServices) -> JobView:
    """A queued job is canceled at once, a running one within a step. Canceling twice does no harm."""
    return await services.view(await cancel_job(services.jobs, record), request)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    response_model=JobView,
    summary="Run a failed job again",
    responses={
        202: {"description": "The new job. Location says where it is; asked again, it is the same one"},
        **problems(
            *ACCESS,
            errors.JobNotFound,
            errors.JobNotRetryable,
            errors.QueueFull,
            errors.TooManyJobs,
            errors.ModelPaused,
            *QUEUE,
            errors.QueueStorageFull,
            errors.PicturesFull,
            errors.PicturesUnavailable,
        ),
    },
)
async def retry(record: OwnRecord, request: Request, services: TheServices, caller: TheCaller) -> Response:
    """A new job with every parameter of the old one, the drawn seed included. The old one stays as it is."""
    admitted = await services.admission.retry(record, caller)
    rendered = await render(services, admitted.record, request)
    headers = rendered.headers | {"Location": services.path(f"/v1/jobs/{admitted.record.id}")}
    return Response(rendered.body, 202, headers, media_type="application/json")


@router.delete(
    "/{job_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a job and its pictures",
    responses=problems(*ACCESS, errors.JobNotFound, errors.JobStillRunning, *QUEUE, errors.PicturesUnavailable),
)
async def delete(record: OwnRecord, request: Request, services: TheServices) -> Response:
    """A job that is not over is canceled first."""
    stopped = await wait_for(request, stop_job(services.jobs, record), closing=services.closing)
    await remove_job(services.jobs, services.pictures, stopped or record)
    return Response(status_code=204)
