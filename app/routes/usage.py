"""What the caller has used, by day.

Knows the query and the kinds of answer. Refuses to know what counts: app/contract/messages/usage.py.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from app.edge import errors
from app.jobs.usage import Period, UsageReport, as_csv
from app.routes.accept import Accept, Format, table_of, wants_csv
from app.routes.answers import ACCESS, QUEUE, problems
from app.services import TheCaller, TheServices

router = APIRouter(tags=["usage"])

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _day(text: Any) -> date:
    # Pydantic would take a moment, or seconds since the epoch, as well.
    if not isinstance(text, str) or not _DAY.fullmatch(text):
        raise ValueError("must be a day such as 2026-11-27")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("is no day of the calendar") from None


Day = Annotated[date, BeforeValidator(_day)]
First = Annotated[Day | None, Query(alias="from", description="The first day, UTC; missing: 29 days before the last")]
Last = Annotated[Day | None, Query(alias="to", description="The last day, UTC; missing: today")]

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: table_of(UsageReport, "By day; as CSV a line for each, with the same columns"),
    **problems(*ACCESS, errors.InvalidRequest, *QUEUE),
}


@router.get("/v1/usage", response_class=Response, summary="What you have used, by day", responses=RESPONSES)
async def own_usage(
    services: TheServices,
    caller: TheCaller,
    first: First = None,
    last: Last = None,
    format: Format = None,
    accept: Accept = "",
) -> Response:
    """Jobs, pictures, evaluations, seconds of the device and bytes, for at most 400 days, which is also how long they
    are kept. A job counts on the day of its end."""
    today = await services.usage.today()
    period = Period.asked(first, last, today=today)
    kept = period.kept(today=today)
    days = await services.usage.of(caller.tenant, kept.first, kept.last) if kept else []
    if wants_csv(format, accept):
        answer = Response(as_csv(days), media_type="text/csv", headers=download(period))
    else:
        held = await services.inputs.held(caller.tenant)
        body = UsageReport.of(period, days, held).model_dump_json(by_alias=True)
        answer = Response(body, media_type="application/json")
    answer.headers["Vary"] = "Accept"
    return answer


def download(period: Period) -> dict[str, str]:
    """A browser saves it under this name."""
    name = f"usage-{period.first.isoformat()}-{period.last.isoformat()}.csv"
    return {"Content-Disposition": f'attachment; filename="{name}"'}
