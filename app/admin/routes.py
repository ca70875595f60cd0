"""What an operator looks at: queues by caller, workers, models, dead jobs, use, audit. Nothing is changed here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated

from fastapi import Query
from starlette.responses import Response, StreamingResponse

from app.admin.access import PREFIX, operators_router
from app.admin.pages import Cursor, Limit, as_csv, cursor_unknown, page, read_place, write_place
from app.admin.schemas import (
    AdminModelList,
    AdminModelView,
    Audit,
    ChangeView,
    DeadJobList,
    DeadJobView,
    QueueView,
    ShareView,
    WorkerList,
    WorkerView,
)
from app.contract.messages import patterns
from app.contract.messages.audit import is_change_id
from app.contract.messages.served import ServedModel
from app.contract.redis.overview import Share
from app.contract.redis.usage import Day
from app.edge.errors import InvalidRequest, WorkerNotFound
from app.jobs.usage import Period, UsageDay, UsagePage
from app.jobs.usage import as_csv as usage_csv
from app.routes.accept import Accept, Format, table_of, wants_csv
from app.routes.answers import ACCESS, QUEUE, problems, read_cursor, write_cursor_at
from app.routes.usage import First, Last, download
from app.services import Services, TheServices

router = operators_router()

OfModel = Annotated[str | None, Query(max_length=64, description="Only of this model")]
OfTenant = Annotated[str | None, Query(pattern=patterns.TENANT, description="Only of this caller")]
UNHEARD_OF = "No worker of this name was heard of lately. GET /v1/admin/workers lists them."
READING = problems(*ACCESS, InvalidRequest, *QUEUE)


@router.get("/queue", response_model=QueueView, summary="Who has jobs that wait or run", responses=READING)
async def queue(services: TheServices, model: OfModel = None, limit: Limit = 100, cursor: Cursor = None) -> QueueView:
    """By model and tenant, with what the jobs cost. Counted anew for each page, while the queue moves."""
    shares = sorted(await services.overview.shares(model), key=_by_cost)
    found, following = page(shares, _by_cost, kinds=(float, str, str), limit=limit, cursor=cursor)
    return QueueView(data=[ShareView.of(each) for each in found], next_cursor=following)


def _by_cost(share: Share) -> tuple[float, str, str]:
    return -(share.waiting_cost + share.running_cost), share.model, share.tenant


@router.get("/workers", response_model=WorkerList, summary="Workers, and what they are at", responses=READING)
async def workers(
    services: TheServices, model: OfModel = None, limit: Limit = 100, cursor: Cursor = None
) -> WorkerList:
    """Those that were heard of lately, by their names; those that still start among them."""
    seen = await services.overview.workers(model)
    found, following = page(seen, lambda each: (each.name,), kinds=(str,), limit=limit, cursor=cursor)
    notes = await services.overview.notes([each.name for each in found])
    views = [WorkerView.of(each, note) for each, note in zip(found, notes, strict=True)]
    return WorkerList(data=views, next_cursor=following)


@router.get(
    "/workers/{worker}",
    response_model=WorkerView,
    summary="One worker",
    responses=problems(*ACCESS, InvalidRequest, WorkerNotFound, *QUEUE),
)
async def worker_by_name(worker: str, services: TheServices) -> WorkerView:
    """As the list has it."""
    seen = await services.overview.worker(worker)
    if seen is None:
        raise WorkerNotFound(UNHEARD_OF)
    [note] = await services.overview.notes([seen.name])
    return WorkerView.of(seen, note)


@router.get("/models", response_model=AdminModelList, summary="Models and their queues", responses=READING)
async def models(services: TheServices) -> AdminModelList:
    """Under their own names; aliases are in GET /v1/models."""
    served = await services.registry.look_again()
    return AdminModelList(data=[await model_view(services, model) for model in served.values()])


async def model_view(services: Services, model: ServedModel) -> AdminModelView:
    """A model with its queue as it is now."""
    name = model.card.name
    waiting = await services.queue_stats.waiting(name)
    running = await services.queue_stats.running(name)
    oldest, unserved = round(waiting.oldest_seconds, 3), round(waiting.unserved_seconds, 3)
    ages = {"oldest_waiting_seconds": oldest, "unserved_seconds": unserved}
    return AdminModelView.of(model, waiting=waiting.jobs, running=running, **ages)


@router.get("/dead", response_model=DeadJobList, summary="Jobs that used up their attempts", responses=READING)
async def dead(services: TheServices, limit: Limit = 100, cursor: Cursor = None) -> DeadJobList:
    """Of everybody, the latest first, until they are run again or their time of keeping is over."""
    found = await services.overview.dead(limit=limit + 1, before=read_cursor(cursor))
    views = [DeadJobView.of(record, died_ms) for record, died_ms in found[:limit]]
    following = write_cursor_at(found[limit - 1][1], views[-1].id) if len(found) > limit else None
    return DeadJobList(data=views, next_cursor=following)


@router.get(
    "/usage",
    response_class=Response,
    summary="What callers have used, by day",
    responses={
        200: table_of(UsagePage, "By day and caller; as CSV a line for each, with the same columns, all at once"),
        **READING,
    },
)
async def usage(
    services: TheServices,
    first: First = None,
    last: Last = None,
    tenant: OfTenant = None,
    limit: Limit = 1_000,
    cursor: Cursor = None,
    format: Format = None,
    accept: Accept = "",
) -> Response:
    """Of all, or of one. What counts is as in GET /v1/usage."""
    today = await services.usage.today()
    period = Period.asked(first, last, today=today)
    kept = period.kept(today=today)
    if wants_csv(format, accept):
        lines = _lines(_days(services, kept, tenant))
        answer: Response = StreamingResponse(lines, media_type="text/csv", headers=download(period))
    else:
        rest, after = _rest_of(kept, cursor)
        found = await _page_of(_days(services, rest, tenant), after, limit)
        body = UsagePage.of(period, *found).model_dump_json(by_alias=True)
        answer = Response(body, media_type="application/json")
    answer.headers["Vary"] = "Accept"
    return answer


async def _days(services: Services, period: Period | None, tenant: str | None) -> AsyncIterator[list[Day]]:
    """Rows of the tenant, or of all, a few at a time and in their order."""
    if period is not None and tenant is not None:
        yield await services.usage.of(tenant, period.first, period.last)
    elif period is not None:
        async for rows in services.usage.of_all(period.first, period.last):
            yield rows


def _rest_of(period: Period | None, cursor: str | None) -> tuple[Period | None, tuple[str, ...]]:
    """The days on which there may be rows after the cursor's place, and that place: days before are not read again."""
    if cursor is None:
        return period, ("", "")
    after = read_place(cursor, (str, str))
    try:
        day = date.fromisoformat(after[0])
    except ValueError:
        raise cursor_unknown() from None
    return period and period.since(day), after


async def _page_of(
    days: AsyncIterator[list[Day]], after: tuple[str, ...], limit: int
) -> tuple[list[UsageDay], str | None]:
    """At most `limit` rows after that date and tenant, and the cursor of the next page."""
    found: list[UsageDay] = []
    async for rows in days:
        left = [row for row in rows if (row[0].isoformat(), row[1]) > after]
        found += [UsageDay.of(row) for row in left[: limit + 1 - len(found)]]
        if len(found) > limit:
            return found[:limit], write_place((found[limit - 1].date, found[limit - 1].tenant))
    return found, None


async def _lines(days: AsyncIterator[list[Day]]) -> AsyncIterator[str]:
    yield usage_csv([])
    async for rows in days:
        yield usage_csv(rows, head=False)


@router.get(
    "/audit",
    response_class=Response,
    summary="What operators have changed",
    responses={
        200: table_of(Audit, "The latest first; as CSV a line for each, with the same columns"),
        **READING,
    },
)
async def audit(
    services: TheServices, limit: Limit = 100, cursor: Cursor = None, format: Format = None, accept: Accept = ""
) -> Response:
    """Pages of CSV begin with the names of the columns, too; the `Link` header leads to the next one."""
    found = await services.operations.audit(limit=limit + 1, before=read_cursor(cursor, is_id=is_change_id))
    views = [ChangeView.of(entry) for entry in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    following = write_cursor_at(last.at_ms, last.id) if last else None
    if wants_csv(format, accept):
        answer = Response(as_csv(ChangeView, views), media_type="text/csv")
        if following:
            path = services.path(f"{PREFIX}/audit")
            answer.headers["Link"] = f'<{path}?format=csv&limit={limit}&cursor={following}>; rel="next"'
    else:
        body = Audit(data=views, next_cursor=following).model_dump_json()
        answer = Response(body, media_type="application/json")
    answer.headers["Vary"] = "Accept"
    return answer
