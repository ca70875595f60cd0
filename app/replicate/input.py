"""A request in Replicate's words: what its clients send, what it means in ours, and the schema for forms.

Knows shapes. Refuses to know Redis and HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model

from app.contract.messages import patterns
from app.contract.messages.card import ModelCard
from app.contract.messages.events import JobEvent
from app.contract.messages.inputs import MAX_BASE64
from app.contract.messages.params import JobRequest, OwedWebhook, ParamError, ParamsRejected
from app.contract.messages.request_body import RequestBody
from app.contract.messages.series import SeriesSpec
from app.contract.messages.spec import PARAMETERS, PLAIN, FileSpec, PictureSpec
from app.contract.messages.texts import Name
from app.jobs.translation import Wording, linked, sides

EVENTS: Final[dict[str, list[Any]]] = {
    "start": [JobEvent.STARTED.value],
    "output": [JobEvent.SUCCEEDED.value],
    "logs": [],
    "completed": [JobEvent.SUCCEEDED.value, JobEvent.FAILED.value, JobEvent.CANCELED.value],
}
"""Replicate's filter words. Logs are not sent out: the stream has them."""

_OURS: Final = PLAIN & (PictureSpec.model_fields.keys() | SeriesSpec.model_fields.keys() | FileSpec.model_fields.keys())
"""Taken under our own names. The model is in the path, a webhook beside the input; previews are not shown there."""

_TWINS: Final = ("num_images", "size", "strength")
"""Taken, and not published: a form needs one field for one thing."""

WITHOUT_EFFECT: Final = (
    "apply_watermark",
    "disable_safety_checker",
    "go_fast",
    "high_noise_frac",
    "lora_scale",
    "megapixels",
    "refine",
)
"""Taken, not published, and not looked at: words of stability-ai/sdxl and of black-forest-labs' models for what there
is not here. The examples on their pages have them, and programs that were written from those are served by aliases."""

PICTURES: Final = {"image": "image", "mask": "mask_image"}
"""Words for pictures, and ours for the same; what they hold is a link or a data: URL."""

CONTROL_IMAGE, CONTROL_TYPE, CONTROL_STRENGTH = "control_image", "control_type", "control_strength"
"""Words of one ControlNet, its picture and how much it counts: as xlabs-ai/flux-dev-controlnet has them."""

CONTROL: Final = {CONTROL_IMAGE: "image", CONTROL_TYPE: "model", CONTROL_STRENGTH: "scale"}

TAKEN_OUT: Final = frozenset((*PICTURES, CONTROL_IMAGE))
"""Members of a body that may be long."""

NEEDS: Final = {**PICTURES, "prompt_strength": "strength", **dict.fromkeys(CONTROL, "control")}
"""Words that only models take which announce what they mean."""

ANNOUNCED: Final = frozenset(name for name, parameter in PARAMETERS.items() if parameter.announced)

CUSTOM: Final = "custom"
"""The aspect ratio of those who say width and height."""

_Link = Annotated[str, Field(min_length=1, max_length=MAX_BASE64, json_schema_extra={"format": "uri"})]

_WORDS: Final[dict[str, Any]] = {
    "image": (
        _Link | None,
        Field(default=None, description="The picture to begin with: a data: URL, or a file's link"),
    ),
    "mask": (_Link | None, Field(default=None, description="Where it is repainted: white. What is black stays")),
    "prompt_strength": replace(
        PARAMETERS["strength"], about="How much of `image` is drawn anew; missing: 0.8, 1 with a mask"
    ).field(float),
    CONTROL_IMAGE: (
        _Link | None,
        Field(default=None, description="What guides a ControlNet: a data: URL, or a file's link"),
    ),
    CONTROL_TYPE: (Name | None, Field(default=None, description="Which ControlNet, where the model has several")),
    CONTROL_STRENGTH: (
        float | None,
        Field(default=None, ge=0, le=2, allow_inf_nan=False, description="How much the ControlNet counts; missing: 1"),
    ),
    "num_outputs": replace(PARAMETERS["num_images"], default=None, about="How many pictures").field(int),
    "aspect_ratio": (
        Annotated[str | None, BeforeValidator(lambda given: None if given == CUSTOM else given)],
        JobRequest.model_fields["aspect_ratio"],
    ),
    "size": (
        str | None,
        Field(default=None, pattern=patterns.SIZE, description="Width x height"),
    ),
}


_FILE: Final = re.compile(r"^https?://[^/?#]+(?:/[^?#]*)?/v1/files/(in_[0-9a-z]{24,30})$")
"""What `urls.get` of a file says. Whatever host it names, only the caller's own files are found by the id."""


def _fields() -> dict[str, Any]:
    """In the order of our own request, which is the order of forms; further words behind it."""
    taken = _OURS | _WORDS.keys()
    fields = {name: (field.annotation, field) for name, field in JobRequest.model_fields.items() if name in taken}
    unread = {
        name: (str | float | bool | None, Field(default=None, description="Without effect")) for name in WITHOUT_EFFECT
    }
    return fields | _WORDS | unread


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


@dataclass(frozen=True, slots=True)
class Meant:
    """The model of a request, and the ControlNets that it has."""

    name: str
    controls: tuple[str, ...]

    @classmethod
    def of(cls, card: ModelCard) -> Meant:
        return cls(card.name, tuple(control.name for control in card.controls))


def refuse_unclear(given: Any, model: Meant) -> None:
    """Raise ParamsRejected where it cannot be told which ControlNet is meant. `given` is a PredictionInput."""
    if given.control_image is None:
        for word in (CONTROL_TYPE, CONTROL_STRENGTH):
            if getattr(given, word) is not None:
                raise ParamsRejected([ParamError(f"/{word}", "needs_control_image", f"goes with {CONTROL_IMAGE}")])
    elif given.control_type is None and len(model.controls) > 1:
        detail = f"is needed, since {model.name} has several: {', '.join(model.controls)}"
        raise ParamsRejected([ParamError(f"/{CONTROL_TYPE}", "missing", detail)])


def in_our_words(given: BaseModel, model: Meant) -> Wording:
    """The job that an input asks for. `given` is a PredictionInput, measured already."""
    fields = given.model_dump(exclude_unset=True, exclude={*WITHOUT_EFFECT})
    images, size = fields.pop("num_outputs", None), fields.pop("size", None)
    if fields.get("output_format", "png") == "png":
        # Models there have a quality by default, and say that it is not relevant for png.
        fields.pop("output_quality", None)
    pictures = {word: fields.pop(word) for word in PICTURES if word in fields}
    strength = fields.pop("prompt_strength", None)
    control = {ours: fields.pop(word, None) for word, ours in CONTROL.items()}
    wording = Wording({"model": model.name, **fields})
    for word, link in pictures.items():
        wording.put(word, **{PICTURES[word]: reference(link)})
    if control["image"] is not None:
        # Of a model that has none, the picture is refused before anybody looks for a name.
        control["model"] = control["model"] or next(iter(model.controls), "none")
        control["image"] = reference(control["image"])
        wording.put("control", control=[{name: value for name, value in control.items() if value is not None}])
    if strength is not None:
        wording.put("prompt_strength", strength=strength)
    if images is not None:
        wording.put("num_outputs", num_images=images)
    if size is not None:
        wording.put("size", **sides(size))
    return wording


def reference(link: str) -> dict[str, str]:
    """A picture as a job refers to it: the data in a data: URL, a file that came in by this API, or a link."""
    if file := _FILE.search(link):
        return {"input": file[1]}
    return linked(link)


def as_written(ours: str) -> str:
    """A pointer into a job as a caller wrote the same: there, a picture is a text, and there is one ControlNet."""
    pointer = re.sub("/(b64|url|input)$", "", ours)
    words = {f"/control/0/{name}": f"/{word}" for word, name in CONTROL.items()}
    return words.get(
        pointer, f"/{CONTROL_IMAGE}" if pointer.startswith("/control/") or pointer == "/control" else pointer
    )


def published_schema(card: ModelCard) -> dict[str, Any]:
    """PredictionInput in the OpenAPI 3.0 of Cog: what form builders and the clients read of a version.

    They show fields in the order of `x-order`, and know `nullable` where JSON Schema has a type for null.
    """
    schema: dict[str, Any] = PredictionInput.model_json_schema()
    defaults = card.model_dump()
    fields: dict[str, dict[str, Any]] = {}
    for name, about in schema["properties"].items():
        if name in (*_TWINS, *WITHOUT_EFFECT) or NEEDS.get(name, name) in ANNOUNCED - set(card.takes):
            continue
        if name in defaults:
            about["default"] = defaults[name]
        kinds = about.pop("anyOf", [])
        flat: dict[str, Any] = next((kind for kind in kinds if kind != {"type": "null"}), {})
        if name == CONTROL_TYPE:
            about["enum"] = [control.name for control in card.controls]
        fields[name] = about | flat | ({"nullable": True} if kinds else {}) | {"x-order": len(fields)}
        if fields[name].get("default", ...) is None:
            del fields[name]["default"]
    return schema | {"properties": fields, "additionalProperties": False}
