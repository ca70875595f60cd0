"""What an operator looks at: queues by caller, workers, models, dead jobs, the audit. Nothing here changes anything."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Header, Query
from starlette.responses import Response

from app.admin.access import PREFIX, operators_router
from app.admin.pages import Cursor, Limit, as_csv, page
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
from app.contract.messages.audit import is_change_id
from app.contract.messages.served import ServedModel
from app.contract.redis.overview import Share
from app.edge.errors import InvalidRequest
from app.routes.accept import preferred
from app.routes.answers import ACCESS, QUEUE, problems, read_cursor, write_cursor_at
from app.services import Services, TheServices

router = operators_router()

OfModel = Annotated[str | None, Query(max_length=64, description="Only of this model")]
Format = Annotated[Literal["json", "csv"] | None, Query(description="Missing: as Accept says, else JSON")]
Accept = Annotated[str, Header(description="application/json or text/csv")]
KINDS = {"json": "application/json", "csv": "text/csv"}
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


@router.get("/models", response_model=AdminModelList, summary="Models and their queues", responses=READING)
async def models(services: TheServices) -> AdminModelList:
    """Under their own names; aliases are in GET /v1/models."""
    served = await services.registry.look_again()
    return AdminModelList(data=[await model_view(services, model) for model in served.values()])


async def model_view(services: Services, model: ServedModel) -> AdminModelView:
    """A model with its queue as it is now."""
    name = model.card.name
    waiting, oldest, unserved = await services.queue_stats.waiting(name)
    running = await services.queue_stats.running(name)
    ages = {"oldest_waiting_seconds": round(oldest, 3), "unserved_seconds": round(unserved, 3)}
    return AdminModelView.of(model, waiting=waiting, running=running, **ages)


@router.get("/dead", response_model=DeadJobList, summary="Jobs that used up their attempts", responses=READING)
async def dead(services: TheServices, limit: Limit = 100, cursor: Cursor = None) -> DeadJobList:
    """Of everybody, the latest first, until they are run again or their time of keeping is over."""
    found = await services.overview.dead(limit=limit + 1, before=read_cursor(cursor))
    views = [DeadJobView.of(record, died_ms) for record, died_ms in found[:limit]]
    following = write_cursor_at(found[limit - 1][1], views[-1].id) if len(found) > limit else None
    return DeadJobList(data=views, next_cursor=following)


@router.get(
    "/audit",
    response_class=Response,
    summary="What operators have changed",
    responses={
        200: {
            "model": Audit,
            "description": "The latest first; as CSV a line for each, with the same columns",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
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
    if (format or preferred(accept, KINDS)) == "csv":
        answer = Response(as_csv(ChangeView, views), media_type="text/csv")
        if following:
            path = services.path(f"{PREFIX}/audit")
            answer.headers["Link"] = f'<{path}?format=csv&limit={limit}&cursor={following}>; rel="next"'
    else:
        body = Audit(data=views, next_cursor=following).model_dump_json()
        answer = Response(body, media_type="application/json")
    answer.headers["Vary"] = "Accept"
    return answer
