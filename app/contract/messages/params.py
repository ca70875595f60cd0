"""A request for a job: the body as a client may write it, and how it becomes a `JobSpec` that leaves nothing open.

Declares no parameter that is stored: those are `spec`'s. What lies beyond a model's limits, or does not go together,
the `fit_` files and `from_pictures` say. Knows nothing of HTTP; the pointers in its errors are JSON pointers into the
body that was measured.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, create_model, model_validator

from app.contract.messages import patterns
from app.contract.messages.card import ModelCard
from app.contract.messages.events import JobEvent
from app.contract.messages.fit_limits import MOST_NAMED, beyond_limits
from app.contract.messages.fit_points import INVERTIBLE
from app.contract.messages.fit_sides import OF_WORK, too_much_work, unfit_sides
from app.contract.messages.from_pictures import fitted, pictured, strength_of, unfit_together
from app.contract.messages.inputs import InputPicture
from app.contract.messages.lora_tags import Untagged, WrongTag, untagged
from app.contract.messages.parameter import request_fields
from app.contract.messages.request_body import RequestBody
from app.contract.messages.schedulers import canonical
from app.contract.messages.series import most_drawn
from app.contract.messages.spec import PARAMETERS, JobSpec
from app.contract.messages.texts import READABLE, Text
from app.contract.messages.urgency import UrgentBody
from app.contract.messages.webhook_headers import WebhookHeaders

DRAWN_SEEDS = 2**53
"""A missing seed is drawn below this: every JSON reader, JavaScript's doubles included, gives it back unharmed."""

FILES = {"loras": "DARKROOM_LORAS", "control": "DARKROOM_CONTROLNETS"}
"""What has to name files before any model takes these."""

WebhookEvent = Literal["job.queued", "job.started", "job.restarted", "job.succeeded", "job.failed", "job.canceled"]

Metadata = Annotated[
    dict[Annotated[Text, Field(min_length=1, max_length=64)], Annotated[Text, Field(max_length=512)]],
    Field(max_length=16),
]


class Webhook(RequestBody):
    """Where facts about this job are sent, signed as Standard Webhooks."""

    url: Annotated[str, Field(min_length=1, max_length=2_048), READABLE]
    events: Annotated[list[WebhookEvent], Field(min_length=1, max_length=6)] = Field(
        default=[JobEvent.SUCCEEDED.value, JobEvent.FAILED.value, JobEvent.CANCELED.value]
    )
    headers: WebhookHeaders = Field(default_factory=dict)


class OwedWebhook(Webhook):
    """A webhook as the record keeps it: with the form of message that the dialect it came in by promises."""

    form: Literal["event", "prediction"] = "event"


_ASPECT_RATIO = Field(
    default=None,
    pattern=patterns.ASPECT_RATIO,
    description="Such as 16:9, instead of width and height: as many pixels as the model's own size has",
)


def _fields() -> dict[str, Any]:
    """What is stored, and one word more for two of the numbers: forms show it beside them."""
    fields: dict[str, Any] = {}
    for name, field in request_fields(JobSpec).items():
        fields[name] = field
        if name == "height":
            fields["aspect_ratio"] = (str | None, _ASPECT_RATIO)
    return fields


_Parameters: Any = create_model("_Parameters", __base__=RequestBody, **_fields())


class JobRequest(_Parameters, UrgentBody):
    """A request for pictures. Only `prompt` is required, and not even that beside `image_embedding`; everything else
    has the model's own default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "a red circle on a blue background", "seed": 7},
                {
                    "model": "starter",
                    "prompt": "a yellow star on a purple background",
                    "negative_prompt": "blurry",
                    "width": 128,
                    "height": 128,
                    "num_inference_steps": 30,
                    "guidance_scale": 4.0,
                    "scheduler": "euler_a",
                    "seed": 42,
                    "num_images": 2,
                    "output_format": "png",
                },
            ]
        },
    )

    @model_validator(mode="wrap")
    @classmethod
    def _needs_no_prompt_beside_a_point(cls, given: Any, handler: ModelWrapValidatorHandler[JobRequest]) -> JobRequest:
        """Who names a picture to draw from may leave the words out."""
        if not isinstance(given, dict) or given.get("image_embedding") is None or given.get("prompt") not in (None, ""):
            return handler(given)
        request = handler(given | {"prompt": "any"})
        request.prompt = ""  # type: ignore[attr-defined]  # One of the fields that are made from others.
        return request

    webhook: Webhook | None = None
    metadata: Metadata = Field(default_factory=dict, description="Your own notes, given back with the job")

    if TYPE_CHECKING:
        # mypy cannot read fields that are made from others.
        def __getattr__(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class ParamError:
    """One thing wrong with a body: where (JSON pointer), which rule, and a sentence for a person."""

    pointer: str
    code: str
    detail: str


class ParamsRejected(Exception):
    """The request has the right shape, but no model here can draw it."""

    def __init__(self, errors: list[ParamError]) -> None:
        super().__init__("; ".join(f"{error.pointer} {error.detail}" for error in errors))
        self.errors = errors


_BY_CARD = {name for name in ModelCard.model_fields if name in PARAMETERS and not PARAMETERS[name].announced}
"""A card's field of a parameter's name is the model's default for it; for what is announced, what there is of it."""


def resolve(request: JobRequest, card: ModelCard, pictures: Mapping[str, InputPicture] | None = None) -> JobSpec:
    """Fill in the model's defaults and draw a missing seed. What neither has is as the stored field has it.

    `pictures` are what the references of the request mean, by the JSON pointers of the references.
    Raises ParamsRejected with every limit of the card that the request breaks.
    """
    words = _untagged(request)
    if words.prompt != request.prompt:
        request = request.model_copy(update={"prompt": words.prompt, "loras": words.loras})
    try:
        return _resolve(request, card, pictures or {})
    except ParamsRejected as rejected:
        raise ParamsRejected([_where_it_stands(error, words) for error in rejected.errors]) from None


def _resolve(request: JobRequest, card: ModelCard, pictures: Mapping[str, InputPicture]) -> JobSpec:
    """The same, of a request without LoRA tags."""
    values = {name: getattr(card, name) for name in _BY_CARD}
    # With what is not stored, which the spec ignores.
    values |= {name: _as_stored(value) for name, value in request.__dict__.items() if value is not None}
    refuse_not_taken(request.__dict__, card)
    found = pictured(request, pictures)
    values |= found | _resolved(request, card, found.get("image"))
    spec = JobSpec.model_validate(values)
    by_ratio = request.aspect_ratio is not None
    unfit = [*unfit_together(spec, card), *unfit_sides(spec, card, by_ratio=by_ratio), *beyond_limits(spec, card)]
    errors = [ParamError(*each) for each in unfit]
    # Of numbers that are refused themselves, what would be less work is not known yet.
    if not any(each.pointer in OF_WORK for each in errors):
        errors += [ParamError(*each) for each in too_much_work(spec, card)]
    if errors:
        raise ParamsRejected(errors)
    return spec


def _as_stored(value: Any) -> Any:
    """What has parts of its own, for the stored type to read."""
    return value.model_dump(by_alias=True) if isinstance(value, RequestBody) else value


def _untagged(request: JobRequest) -> Untagged:
    """Its prompt without LoRA tags, where those are read. Raises ParamsRejected."""
    loras = request.loras or []
    if request.prompt_syntax != "a1111":
        return Untagged(request.prompt, loras, len(loras))
    try:
        return untagged(request.prompt, loras)
    except WrongTag as error:
        raise ParamsRejected([ParamError("/prompt", error.code, str(error))]) from None


def _where_it_stands(error: ParamError, words: Untagged) -> ParamError:
    """The same error, at the word of the request that led to it."""
    pointer, detail = words.where(error.pointer, error.detail)
    return replace(error, pointer=pointer, detail=detail)


def _resolved(request: JobRequest, card: ModelCard, image: InputPicture | None) -> dict[str, Any]:
    """The parameters that need more than a default."""
    width, height = _sides(request, card, image)
    return {
        "model": card.name,
        "width": width,
        "height": height,
        "scheduler": _scheduler(request.scheduler or _needed_scheduler(request), card),
        "seed": secrets.randbelow(DRAWN_SEEDS) if request.seed is None else request.seed,
        "strength": strength_of(request),
        "num_images": _num_images(request),
    }


def _num_images(request: JobRequest) -> int:
    """As asked, or one for each place on the way between two image embeddings."""
    asked: int = request.num_images
    places = request.image_embedding.at if request.image_embedding is not None else None
    if places is None or asked in (1, len(places)):
        return asked if places is None else len(places)
    detail = f"goes without image_embedding.at, which has {len(places)} places: one for each picture"
    raise ParamsRejected([ParamError("/num_images", "said_twice", detail)])


def refuse_not_taken(asked: Mapping[str, Any], card: ModelCard, others: Iterable[ModelCard] = ()) -> None:
    """Raises ParamsRejected for parameters that only other models take: before anybody looks for pictures. Those of
    `others` that do are named."""
    if refused := [*_not_taken(asked, card, [*others])]:
        raise ParamsRejected(refused)


def _not_taken(values: Mapping[str, Any], card: ModelCard, others: Sequence[ModelCard] = ()) -> Iterator[ParamError]:
    """What was asked for, and only models take that announce it."""
    for name, parameter in PARAMETERS.items():
        if parameter.announced and name not in card.takes and values.get(name) not in (None, [], parameter.default):
            takers = ", ".join(other.name for other in others[:MOST_NAMED] if name in other.takes)
            files = f"; {FILES[name]} names some to models that can use them" if name in FILES else ""
            told = f"; taken by {takers}" if takers else files
            yield ParamError(f"/{name}", "not_taken", f"is something that {card.name} does not take{told}")


def _sides(request: JobRequest, card: ModelCard, image: InputPicture | None) -> tuple[int, int]:
    if request.aspect_ratio is None and image is not None:
        steps = request.num_inference_steps or card.num_inference_steps
        drawn = most_drawn(request.num_images, request.best_of, request.min_probability)
        return fitted(image, card, width=request.width, height=request.height, work=steps * drawn)
    if request.aspect_ratio is None:
        width = card.width if request.width is None else request.width
        return width, card.height if request.height is None else request.height
    if request.width is not None or request.height is not None:
        raise ParamsRejected([ParamError("/aspect_ratio", "said_twice", "goes without width and height")])
    across, down = map(int, request.aspect_ratio.split(":"))
    area, unit = card.width * card.height, card.side_multiple
    width, height = (round(math.sqrt(area * ratio) / unit) for ratio in (across / down, down / across))
    return max(1, width) * unit, max(1, height) * unit


def _needed_scheduler(request: JobRequest) -> str | None:
    """That nobody need ask for: there is no other."""
    return INVERTIBLE[0] if request.start == "inverted" else None


def _scheduler(asked: str | None, card: ModelCard) -> str:
    """The card's own word for it. A worker may be newer than this gateway, and know a name that the table lacks."""
    if asked is None:
        return card.scheduler
    return asked if asked in card.schedulers else canonical(asked) or asked
