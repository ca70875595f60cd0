"""How well texts fit pictures: CLIP's first figure as a route, and as a job like any other."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from app.contract.messages.job import Record
from app.contract.messages.question_requests import ScoreRequest
from app.contract.messages.questions import ScoreResult, ScoreSpec
from app.edge import errors
from app.jobs.schemas import JobView
from app.routes.answers import ACCESS, SUBMIT, TRACEPARENT, described, problems, wait_wanted
from app.routes.jobs import IDEMPOTENCY_KEY
from app.routes.joining import admit
from app.routes.long_waits import succeeded
from app.routes.waiting import answer_in_time
from app.services import TheCaller, TheServices

router = APIRouter(tags=["scores"])

DEFAULT_WAIT = 10
"""Seconds. Nothing is drawn: with a worker there, it is a matter of milliseconds."""

PREFER = {
    "name": "Prefer",
    "description": f"`wait=30`: answer when it is over, at most 60 s; missing: {DEFAULT_WAIT}. `wait=0`: at once, with "
    "the job. Beside it, `cancel-on-disconnect` and `heartbeat` as with POST /v1/jobs",
}


class ScoreAnswer(ScoreResult):
    """How well every text fits every picture."""

    object: Literal["score"] = "score"
    model: str
    texts: tuple[str, ...] = Field(description="As they were compared: in their template")
    warnings: tuple[str, ...]
    job_id: str = Field(description="GET /v1/jobs/{job_id} has the same as `result`")

    @classmethod
    def of(cls, record: Record) -> ScoreAnswer:
        """Of a job that has succeeded."""
        question, result = record.question, record.result
        if not isinstance(question, ScoreSpec) or not isinstance(result, ScoreResult):
            raise TypeError(f"{record.id} is no score")
        return cls(
            model=record.model,
            texts=question.texts,
            warnings=record.warnings,
            job_id=record.id,
            **result.model_dump(),
        )


@router.post(
    "/v1/score",
    response_model=ScoreAnswer,
    summary="How well do texts fit pictures?",
    responses={
        202: {"model": JobView, "description": "It was not over in time. Location says where the job is"},
        **problems(
            *ACCESS,
            *SUBMIT,
            errors.ModelAway,
            errors.JobDeleted,
            errors.IdempotencyKeyReused,
            errors.JobFailed,
            errors.JobWasCanceled,
        ),
    },
    openapi_extra=described(PREFER, IDEMPOTENCY_KEY, TRACEPARENT),
)
async def score(body: ScoreRequest, request: Request, services: TheServices, caller: TheCaller) -> Response:
    """Every text with every picture: their cosine, and the probability of each text among those of the request."""
    seconds = wait_wanted(request.headers.getlist("prefer"), otherwise=DEFAULT_WAIT)
    waits = seconds is not None
    waiting = await admit(services, body, caller, request, waits=waits, is_awaited=waits)
    return await answer_in_time(
        services, waiting, request, seconds=seconds, whole=lambda record: ScoreAnswer.of(succeeded(record)), status=200
    )
