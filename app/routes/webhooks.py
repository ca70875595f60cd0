"""What was sent to a job's webhook, and sending it again."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from app.contract.messages.events import JobEvent
from app.edge import errors
from app.jobs.deliveries import DeliveryList, DeliveryView
from app.routes.answers import ACCESS, QUEUE, problems
from app.services import OwnRecord, TheServices

router = APIRouter(prefix="/v1/jobs", tags=["webhooks"])


@router.get(
    "/{job_id}/webhooks",
    response_model=DeliveryList,
    summary="What was sent to the job's webhook",
    responses=problems(*ACCESS, errors.JobNotFound, *QUEUE),
)
async def deliveries(record: OwnRecord, services: TheServices) -> DeliveryList:
    """Every try with its answer, newest first; empty before the first and for a job without a webhook."""
    return DeliveryList(data=[DeliveryView.of(each) for each in await services.outbox.deliveries(record.id)])


@router.post(
    "/{job_id}/webhooks/{event}/resend",
    status_code=202,
    response_class=Response,
    summary="Send an event to the webhook again",
    responses={
        202: {"description": "It will be sent at once, and tried again as often as the first time"},
        **problems(*ACCESS, errors.JobNotFound, errors.WebhookNotFound, *QUEUE),
    },
)
async def resend(record: OwnRecord, event: str, services: TheServices) -> Response:
    """For a receiver that was down for too long, or that said 410 and is back. The webhook-id stays the same."""
    known = event in {each.value for each in JobEvent}
    outcome = await services.outbox.resend(record.id, event) if known else "unsent"
    if outcome == "missing":
        raise errors.JobNotFound
    if outcome == "unsent":
        raise errors.WebhookNotFound("No message about this event was ever owed for the job.")
    return Response(status_code=202)
