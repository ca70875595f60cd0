"""For whoever runs this: does the process answer, and can it do its work?"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app.edge.errors import InvalidRequest
from app.jobs.readiness import Check
from app.jobs.schemas import ReadinessView
from app.routes.answers import ACCESS, problems
from app.services import TheServices

router = APIRouter(tags=["operations"])

Exclude = Annotated[
    tuple[Check, ...],
    Query(
        description="Checks that are left out: `workers` where they are started only when jobs wait, so that the first "
        "of these is taken"
    ),
]


@router.get(
    "/healthz", response_class=Response, summary="The process answers", responses={200: {"content": {"text/plain": {}}}}
)
async def healthz() -> Response:
    """Looks at nothing else: a gateway must not be restarted because Redis is away."""
    return Response("ok\n", media_type="text/plain")


@router.get(
    "/metrics",
    response_class=Response,
    summary="Metrics for Prometheus",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(*ACCESS)},
)
async def metrics(request: Request) -> Response:
    """Needs a key, where there are keys. DARKROOM_METRICS_PORT serves the same on a port of its own, without one."""
    return Response(await request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/readyz",
    response_model=ReadinessView,
    summary="The gateway can do its work",
    responses={
        503: {"model": ReadinessView, "description": "Something is in the way; the body names it"},
        **problems(InvalidRequest),
    },
)
async def readyz(services: TheServices, response: Response, exclude: Exclude = ()) -> ReadinessView:
    """Redis durable and reachable, pictures writable, a worker heard of lately."""
    readiness = await services.readiness.look(exclude)
    response.status_code = 200 if readiness.ready else 503
    return readiness
