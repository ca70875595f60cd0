"""OpenAI's embeddings: what the official `openai` clients send and expect, and pictures beside texts.

A request waits for its job, as one for pictures does; what lies in the vectors is the model's affair.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.contract.messages.job import Record
from app.contract.messages.question_requests import EmbeddingsRequest
from app.contract.messages.questions import EmbedResult
from app.contract.messages.unclip import numbers_of
from app.openai.routes import REFUSALS, RetryCount, tried_before
from app.routes.answers import TRACEPARENT, described
from app.routes.joining import Waiting, admit
from app.routes.long_waits import refuse_if_abandoned, succeeded, until_end
from app.routes.waiting import PREFER, applied, send, wait_for_end
from app.services import Services, TheCaller, TheServices

router = APIRouter(tags=["openai"])


class CreateEmbeddings(EmbeddingsRequest):
    """What POST /v1/embeddings takes: OpenAI's words, and ours beside them (`extra_body` in the Python client)."""

    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="Of each vector: a list of numbers, or base64 of them as float32, little endian"
    )
    user: str | None = Field(default=None, max_length=512, description="Without effect")


class Embedding(BaseModel):
    """One unit vector."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Of the input")
    embedding: list[float] | str
    cosine_to_text: float | None = Field(default=None, description="With space image: to the text's own vector")


class Usage(BaseModel):
    """Tokens of the texts that were read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """A vector for each input, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    model_sha256: str = Field(description="Which weights made them: vectors of others lie elsewhere")
    dimensions: int
    warnings: list[str]
    job_id: str = Field(description="GET /v1/jobs/{job_id} has the same as `result`")


@router.post(
    "/v1/embeddings",
    response_model=Embeddings,
    response_model_exclude_none=True,
    summary="Vectors of texts and pictures (OpenAI's API)",
    responses=REFUSALS,
    openapi_extra=described(PREFER, TRACEPARENT),
)
async def embed(
    body: CreateEmbeddings, request: Request, services: TheServices, caller: TheCaller, retry_count: RetryCount = None
) -> Response:
    """The official clients work with their base URL set to this service's /v1. Cosines of vectors of one model compare
    texts with texts, pictures with pictures, and each with the others."""
    waiting = await admit(services, body, caller, request, waits=True, again=tried_before(retry_count))
    await refuse_if_abandoned(services, waiting.record)
    return await send(request, _answer(body, services, waiting, request), headers=applied(request))


async def _answer(body: CreateEmbeddings, services: Services, waiting: Waiting, request: Request) -> Response:
    async with waiting.answering():
        after = await wait_for_end(services, waiting, request, until_end(services, waiting))
        found = _embeddings(succeeded(after), body.encoding_format)
    headers = applied(request)
    return Response(found.model_dump_json(exclude_none=True), headers=headers, media_type="application/json")


def _embeddings(record: Record, encoding: Literal["float", "base64"]) -> Embeddings:
    result = record.result
    if not isinstance(result, EmbedResult):
        raise TypeError(f"{record.id} made no embeddings")
    near = result.cosine_to_text or [None] * len(result.vectors)
    data = [
        Embedding(
            index=at, embedding=list(numbers_of(vector)) if encoding == "float" else vector, cosine_to_text=cosine
        )
        for at, (vector, cosine) in enumerate(zip(result.vectors, near, strict=True))
    ]
    return Embeddings(
        data=data,
        model=record.model,
        usage=Usage(prompt_tokens=result.tokens, total_tokens=result.tokens),
        model_sha256=result.model_sha256,
        dimensions=result.dimensions,
        warnings=list(record.warnings),
        job_id=record.id,
    )
