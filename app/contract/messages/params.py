"""A request for a job: the body as a client may write it, and how it becomes a `JobSpec` that leaves nothing open.

Knows the limits of a model's card. Declares no parameter that is stored: those are `spec`'s. Knows nothing of HTTP; the
pointers in its errors are JSON pointers into the body that was measured.
"""

from __future__ import annotations

import difflib
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, create_model, model_validator

from app.contract.messages import patterns
from app.contract.messages.a1111_syntax import MOST_WEIGHT, heaviest
from app.contract.messages.card import ModelCard
from app.contract.messages.events import JobEvent
from app.contract.messages.fit_points import INVERTIBLE
from app.contract.messages.fit_sides import OF_WORK, too_much_work, unfit_sides
from app.contract.messages.from_pictures import fitted, pictured, strength_of, unfit_together
from app.contract.messages.inputs import InputPicture
from app.contract.messages.lora_tags import Untagged, WrongTag, untagged
from app.contract.messages.parameter import request_fields
from app.contract.messages.request_body import RequestBody
from app.contract.messages.schedulers import canonical, nearest
from app.contract.messages.series import broken_series, most_drawn
from app.contract.messages.spec import MAX_SEED, PARAMETERS, JobSpec
from app.contract.messages.texts import READABLE, Text
from app.contract.messages.trajectory import MOST_PICTURES
from app.contract.messages.urgency import UrgentBody
from app.contract.messages.webhook_headers import WebhookHeaders

DRAWN_SEEDS = 2**53
"""A missing seed is drawn below this: every JSON reader, JavaScript's doubles included, gives it back unharmed."""

MOST_NAMED = 12
"""Names in a refusal."""

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
    unfit = [*unfit_together(spec, card), *unfit_sides(spec, card, by_ratio=by_ratio)]
    errors = [*(ParamError(*each) for each in unfit), *_broken_limits(spec, card)]
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
            told = f"; taken by {takers}" if takers else ""
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


def _broken_limits(spec: JobSpec, card: ModelCard) -> Iterator[ParamError]:
    yield from _broken_steps(spec, card)
    if spec.guidance_scale > card.max_guidance_scale:
        yield ParamError("/guidance_scale", "out_of_range", f"must be 0 to {card.max_guidance_scale:g}")
    if card.max_clip_skip is not None and (spec.clip_skip or 0) > card.max_clip_skip:
        yield ParamError("/clip_skip", "out_of_range", f"must be at most {card.max_clip_skip} with this model")
    for name, prompt in (("prompt", spec.prompt), ("negative_prompt", spec.negative_prompt or "")):
        if spec.prompt_syntax == "a1111" and heaviest(prompt) > MOST_WEIGHT:
            yield ParamError(f"/{name}", "out_of_range", f"weighs words by more than {MOST_WEIGHT:g}")
    yield from (ParamError(*each) for each in broken_series(spec, max_images=card.max_images))
    if spec.seed + spec.most_drawn - 1 > MAX_SEED:
        yield ParamError("/seed", "out_of_range", "seed + num_images must stay below 2^63")
    if spec.scheduler not in card.schedulers:
        yield ParamError("/scheduler", "unknown", _no_such_scheduler(spec.scheduler, card))
    yield from _broken_controls(spec, card)
    known = [each.name for each in card.loras]
    for at, lora in enumerate(spec.loras):
        if lora.name not in known:
            yield ParamError(f"/loras/{at}/name", "unknown", _no_such(lora.name, known, "LoRAs"))
    if spec.output_format == "png" and spec.output_quality not in (None, 100):
        yield ParamError("/output_quality", "no_quality", "must be 100 with png, which loses nothing")
    if spec.keep_previews and not spec.preview_every:
        yield ParamError(
            "/keep_previews", "no_previews", "needs preview_every: after how many evaluations each is made"
        )
    if spec.trajectory is not None and spec.most_drawn > MOST_PICTURES:
        yield ParamError(
            "/trajectory", "too_many", f"takes 1 to {MOST_PICTURES} pictures that may be drawn: all steps are kept"
        )


def _needed_scheduler(request: JobRequest) -> str | None:
    """That nobody need ask for: there is no other."""
    return INVERTIBLE[0] if request.start == "inverted" else None


def _scheduler(asked: str | None, card: ModelCard) -> str:
    """The card's own word for it. A worker may be newer than this gateway, and know a name that the table lacks."""
    if asked is None:
        return card.scheduler
    return asked if asked in card.schedulers else canonical(asked) or asked


def _no_such_scheduler(name: str, card: ModelCard) -> str:
    if canonical(name):
        return f"does not work with this model; its default is {card.scheduler}"
    close = " or ".join(nearest(name, card.schedulers))
    return f"is unknown; did you mean {close}?" if close else f"is unknown; {card.scheduler} is this model's default"


def _broken_controls(spec: JobSpec, card: ModelCard) -> Iterator[ParamError]:
    known = [each.name for each in card.controls]
    for at, each in enumerate(spec.control):
        if each.model not in known:
            yield ParamError(f"/control/{at}/model", "unknown", _no_such(each.model, known, "ControlNets"))
    if len({each.model for each in spec.control}) > card.max_controls:
        detail = f"names more ControlNets than {card.name} uses at once: {card.max_controls}"
        yield ParamError("/control", "too_many", detail)


def _no_such(name: str, known: Sequence[str], what: str) -> str:
    """The likeliest that was meant, or what there is."""
    written = {other.casefold(): other for other in known}
    if close := difflib.get_close_matches(name.strip().casefold(), written, n=3, cutoff=0.5):
        return f"is unknown; did you mean {' or '.join(written[other] for other in close)}?"
    return f"is unknown; {what} of this model: {', '.join(known[:MOST_NAMED])}{', …' * (len(known) > MOST_NAMED)}"


def _broken_steps(spec: JobSpec, card: ModelCard) -> Iterator[ParamError]:
    steps = spec.num_inference_steps
    fewest = card.scheduler_min_steps.get(spec.scheduler, 1)
    most = min(card.max_steps, card.scheduler_max_steps.get(spec.scheduler, card.max_steps))
    refused = card.scheduler_refused_steps.get(spec.scheduler, ())
    if not fewest <= steps <= most:
        of_all = (fewest, most) == (1, card.max_steps)
        whose = "" if of_all else f" with the scheduler {spec.scheduler}"
        yield ParamError("/num_inference_steps", "out_of_range", f"must be {fewest} to {most}{whose}")
    elif steps in refused:
        fit = sorted(set(range(fewest, most + 1)) - set(refused), key=lambda other: abs(other - steps))[:2]
        others = " or ".join(map(str, sorted(fit)))
        detail = f"is a number of steps that {spec.scheduler} cannot take with this model; {others} will do"
        yield ParamError("/num_inference_steps", "out_of_range", detail)
