"""Which of several labels fits a picture best, as Hugging Face's InferenceClients for Python and JavaScript ask for it.

Its `model` is the address of this route. The same job as of POST /v1/score, in other words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, WithJsonSchema
from starlette.responses import Response

from app.contract.messages.inputs import MAX_BASE64, ImageReference
from app.contract.messages.job import Record
from app.contract.messages.params import ParamsRejected
from app.contract.messages.question_requests import MOST_TEXTS, PLACE, ScoreRequest, Template, Words
from app.contract.messages.questions import ScoreResult
from app.contract.messages.request_body import RequestBody
from app.contract.messages.texts import Name
from app.huggingface.errors import REFUSALS
from app.routes.answers import TRACEPARENT, described
from app.routes.joining import Waiting, admit
from app.routes.long_waits import refuse_if_abandoned, succeeded, until_end
from app.routes.waiting import PREFER, applied, send, wait_for_end
from app.services import Services, TheCaller, TheServices

router = APIRouter(tags=["huggingface"])

TEMPLATE = f"This is a photo of {PLACE}."
"""As transformers' pipeline for this task has it."""

TAKEN_OUT = frozenset({"inputs", "image"})
"""Names of what is large in a body."""


class ZeroShotParameters(RequestBody):
    """What is asked of the picture."""

    candidate_labels: list[Words] = Field(min_length=1, max_length=MOST_TEXTS)
    hypothesis_template: Template = Field(default=TEMPLATE, description="What each label is put into, at the place {}")


def _taken_out_of_object(given: Any) -> Any:
    return given["image"] if isinstance(given, dict) and given.keys() == {"image"} else given


_FILE: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": MAX_BASE64}
_OBJECT: Final = {
    "type": "object",
    "properties": {"image": _FILE},
    "required": ["image"],
    "additionalProperties": False,
}


class ZeroShotRequest(RequestBody):
    """What zero_shot_image_classification of huggingface_hub sends, and zeroShotImageClassification of
    @huggingface/inference."""

    inputs: Annotated[
        str,
        Field(min_length=1, max_length=MAX_BASE64, description="The picture's file in base64, or `image` with that"),
        BeforeValidator(_taken_out_of_object),
        WithJsonSchema({"anyOf": [_FILE, _OBJECT]}),
    ]
    parameters: ZeroShotParameters

    def in_our_words(self, model: str | None) -> ScoreRequest:
        """The score that is meant."""
        asked = self.parameters
        return ScoreRequest(
            model=model,
            images=[ImageReference(b64=self.inputs)],
            texts=asked.candidate_labels,
            template=asked.hypothesis_template,
        )


class LabelScore(BaseModel):
    """One label, and the probability that it is this one of those asked for."""

    label: str
    score: float


_LABELS = TypeAdapter(list[LabelScore])


@router.post(
    "/v1/zero-shot-image-classification",
    response_model=list[LabelScore],
    summary="Which label fits a picture? (Hugging Face's API)",
    responses=REFUSALS,
    openapi_extra=described(PREFER, TRACEPARENT),
)
async def classify(
    body: ZeroShotRequest,
    request: Request,
    services: TheServices,
    caller: TheCaller,
    model: Annotated[
        Name | None, Query(description="One of GET /v1/models that can score. Missing: the only one")
    ] = None,
) -> Response:
    """The labels, the likeliest first. `huggingface_hub.InferenceClient` works with the address of this route as its
    `model`."""
    try:
        waiting = await admit(services, body.in_our_words(model), caller, request, waits=True)
    except ParamsRejected as error:
        raise ParamsRejected([replace(each, pointer=_pointer(each.pointer)) for each in error.errors]) from error
    await refuse_if_abandoned(services, waiting.record)
    return await send(request, _answer(body, services, waiting, request), headers=applied(request))


async def _answer(body: ZeroShotRequest, services: Services, waiting: Waiting, request: Request) -> Response:
    async with waiting.answering():
        after = await wait_for_end(services, waiting, request, until_end(services, waiting))
        found = _labels(succeeded(after), body.parameters.candidate_labels)
    return Response(_LABELS.dump_json(found), headers=applied(request), media_type="application/json")


def _labels(record: Record, labels: list[str]) -> list[LabelScore]:
    result = record.result
    if not isinstance(result, ScoreResult):
        raise TypeError(f"{record.id} is no score")
    [probabilities] = result.probability
    found = [LabelScore(label=label, score=score) for label, score in zip(labels, probabilities, strict=True)]
    return sorted(found, key=lambda each: -each.score)


def _pointer(ours: str) -> str:
    if ours.startswith("/images/0"):
        return "/inputs"
    return ours.replace("/texts", "/parameters/candidate_labels", 1)
