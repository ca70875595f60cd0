"""A request in Replicate's words: what its clients send, what it means in ours, and the schema for forms.

Knows shapes. Refuses to know Redis and HTTP.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model

from app.contract.messages.card import ModelCard
from app.contract.messages.events import JobEvent
from app.contract.messages.params import JobRequest, OwedWebhook
from app.contract.messages.request_body import RequestBody
from app.contract.messages.spec import PARAMETERS, PLAIN, FileSpec, PictureSpec, SeriesSpec
from app.jobs.translation import Wording, sides

EVENTS: Final[dict[str, list[Any]]] = {
    "start": [JobEvent.STARTED.value],
    "output": [JobEvent.SUCCEEDED.value],
    "logs": [],
    "completed": [JobEvent.SUCCEEDED.value, JobEvent.FAILED.value, JobEvent.CANCELED.value],
}
"""Replicate's filter words. Logs are not sent out: the stream has them."""

_OURS: Final = PLAIN & (PictureSpec.model_fields.keys() | SeriesSpec.model_fields.keys() | FileSpec.model_fields.keys())
"""Taken under our own names. The model is in the path, a webhook beside the input; previews are not shown there."""

_TWINS: Final = ("num_images", "size")
"""Taken, and not published: a form needs one field for one thing."""

CUSTOM: Final = "custom"
"""The aspect ratio of those who say width and height."""

_WORDS: Final[dict[str, Any]] = {
    "num_outputs": replace(PARAMETERS["num_images"], default=None, about="How many pictures").field(int),
    "aspect_ratio": (
        Annotated[str | None, BeforeValidator(lambda given: None if given == CUSTOM else given)],
        JobRequest.model_fields["aspect_ratio"],
    ),
    "size": (
        str | None,
        Field(default=None, pattern=r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$", description="Width x height"),
    ),
}


def _fields() -> dict[str, Any]:
    """In the order of our own request, which is the order of forms; further words behind it."""
    taken = _OURS | _WORDS.keys()
    fields = {name: (field.annotation, field) for name, field in JobRequest.model_fields.items() if name in taken}
    return fields | _WORDS


PredictionInput: Any = create_model(
    "PredictionInput",
    __base__=RequestBody,
    __doc__="The parameters of a job, and further words that models on Replicate have for them.",
    **_fields(),
)


class PredictionRequest(RequestBody):
    """A request in Replicate's words, for a model that the path names."""

    input: PredictionInput
    webhook: str | None = Field(default=None, min_length=1, max_length=2_048, description="Where to send news")
    webhook_events_filter: list[Literal["start", "output", "logs", "completed"]] | None = Field(
        default=None, min_length=1, max_length=4
    )
    webhook_completed: str | None = Field(default=None, min_length=1, max_length=2_048, description="Only the end")
    stream: bool | None = Field(default=None, description="Without effect: every prediction has urls.stream")

    def owed(self) -> OwedWebhook | None:
        """The webhook that is meant, if any event can ever be sent."""
        url, words = self.webhook, [*(self.webhook_events_filter or EVENTS)]
        if url is None:
            url, words = self.webhook_completed, ["completed"]
        events = list(dict.fromkeys(event for word in words for event in EVENTS[word]))
        return OwedWebhook(url=url, events=events, form="prediction") if url and events else None


class VersionedPredictionRequest(PredictionRequest):
    """A request that names its model: the id of a version, darkroom/name, darkroom/name:version or an alias."""

    version: str | None = Field(
        default=None, min_length=1, max_length=200, description="Without it: the model of requests that name none"
    )
    model: str | None = Field(
        default=None, min_length=1, max_length=200, description="Instead of a version, in the same words"
    )


def in_our_words(given: BaseModel, model: str) -> Wording:
    """The job that an input asks for. `given` is a PredictionInput, measured already."""
    fields = given.model_dump(exclude_unset=True)
    images, size = fields.pop("num_outputs", None), fields.pop("size", None)
    if fields.get("output_format", "png") == "png":
        # Models there have a quality by default, and say that it is not relevant for png.
        fields.pop("output_quality", None)
    wording = Wording({"model": model, **fields})
    if images is not None:
        wording.put("num_outputs", num_images=images)
    if size is not None:
        wording.put("size", **sides(size))
    return wording


def published_schema(card: ModelCard) -> dict[str, Any]:
    """PredictionInput in the OpenAPI 3.0 of Cog: what form builders and the clients read of a version.

    They show fields in the order of `x-order`, and know `nullable` where JSON Schema has a type for null.
    """
    schema: dict[str, Any] = PredictionInput.model_json_schema()
    defaults = card.model_dump()
    fields: dict[str, dict[str, Any]] = {}
    for name, about in schema["properties"].items():
        if name in _TWINS:
            continue
        if name in defaults:
            about["default"] = defaults[name]
        kinds = about.pop("anyOf", [])
        flat: dict[str, Any] = next((kind for kind in kinds if kind != {"type": "null"}), {})
        fields[name] = about | flat | ({"nullable": True} if kinds else {}) | {"x-order": len(fields)}
        if fields[name].get("default", ...) is None:
            del fields[name]["default"]
    return schema | {"properties": fields, "additionalProperties": False}
