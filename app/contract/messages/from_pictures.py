"""What a job that begins with pictures has by default, and which of its parameters do not fit together.

Knows where a request names pictures, their sides, and a model's limits. Refuses to know which picture a name means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_UP, Context, Decimal
from typing import Any, Final, Protocol

from app.contract.messages.card import ModelCard
from app.contract.messages.fit_fewer import unfit_for_fewer
from app.contract.messages.fit_points import TEXT_TO_IMAGE, VARIATION, unfit_points
from app.contract.messages.inputs import AskedControl, AskedLora, ImageReference, InputPicture
from app.contract.messages.parameter import Fault
from app.contract.messages.spec import JobSpec, PictureSpec
from app.contract.messages.unclip import AskedImageEmbedding

STRENGTH: Final = 0.8
"""As StableDiffusionImg2ImgPipeline has it."""

STRENGTH_WITH_MASK: Final = 1.0
"""As StableDiffusionInpaintPipeline has it: what is repainted owes nothing to what was there."""

ANOTHER_SHAPE: Final = 0.02
"""Part of a side by which a mask's may differ from the picture's, both scaled to the same height: rounding."""

STRETCHED: Final = 0.05
"""The same between the picture and what is drawn. Less than this comes of fitting to a multiple, and nobody sees it."""

STRENGTH_OF_A_VARIATION: Final = 0.6
"""What is in the picture stays, how it looks does not."""

ALL_STEPS: Final = ("LatentConsistencyModelPipeline",)
"""Families whose pipeline for pictures takes all steps on the part of the way that is left."""


class Asked(Protocol):
    """What a request says of pictures. `loras` are told with them: both are lists with parts of their own."""

    image: ImageReference | None
    mask_image: ImageReference | None
    control: Sequence[AskedControl] | None
    loras: Sequence[AskedLora] | None
    strength: float | None
    image_embedding: AskedImageEmbedding | None


def references_of(request: Asked) -> Iterator[tuple[str, ImageReference]]:
    """Every reference to a picture, with its JSON pointer."""
    for name, reference in (("image", request.image), ("mask_image", request.mask_image)):
        if reference is not None:
            yield f"/{name}", reference
    for at, each in enumerate(request.control or ()):
        yield f"/control/{at}/image", each.image
    if request.image_embedding is not None:
        yield from _of_points(request.image_embedding)


def _of_points(asked: AskedImageEmbedding) -> Iterator[tuple[str, ImageReference]]:
    if asked.of is not None:
        yield "/image_embedding/of", asked.of
    for at, point in enumerate(asked.slerp or ()):
        if point.of is not None:
            yield f"/image_embedding/slerp/{at}/of", point.of


def pictured(request: Asked, pictures: Mapping[str, InputPicture]) -> dict[str, Any]:
    """The stored values of the parameters that have pictures in them."""
    found: dict[str, Any] = {
        name: pictures[f"/{name}"] for name in ("image", "mask_image") if getattr(request, name) is not None
    }
    if request.control:
        found["control"] = tuple(
            each.model_dump(exclude={"image"}) | {"image": pictures[f"/control/{at}/image"]}
            for at, each in enumerate(request.control)
        )
    if request.loras:
        found["loras"] = tuple(each.model_dump() for each in request.loras)
    if request.image_embedding is not None:
        found["image_embedding"] = _pointed(request.image_embedding, pictures)
    return found


def _pointed(asked: AskedImageEmbedding, pictures: Mapping[str, InputPicture]) -> dict[str, Any]:
    """The same of an image embedding: as asked, with pictures in the place of references."""
    stored = asked.model_dump(by_alias=True)
    for pointer, _ in _of_points(asked):
        *way, name = pointer.removeprefix("/image_embedding/").split("/")
        point = stored["slerp"][int(way[1])] if way else stored
        point[name] = pictures[pointer]
    return stored


def strength_of(request: Asked) -> float | None:
    """As asked, else as the pipeline has it. None where the job begins with no picture."""
    if request.strength is not None or request.image is None:
        return request.strength
    return STRENGTH if request.mask_image is None else STRENGTH_WITH_MASK


def fitted(
    image: InputPicture, card: ModelCard, *, width: int | None, height: int | None, work: int
) -> tuple[int, int]:
    """Width and height of what is drawn: as asked, else the picture's, made to fit the model.

    Smaller or larger with the picture's shape, until both sides are within the card's, and until the area times
    `work`, steps times pictures, is within its budget; then to the nearest multiple.
    """
    scale = _scale(image, card, work)
    if width is not None or height is not None:
        across = image.width / image.height
        return (
            width if width is not None else _side((height or 0) * across, card),
            height if height is not None else _side((width or 0) / across, card),
        )
    return _side(image.width * scale, card), _side(image.height * scale, card)


def _scale(image: InputPicture, card: ModelCard, work: int) -> float:
    scale = max(1.0, card.min_side / min(image.width, image.height))
    # Rounding to a multiple must not lead out of the budget again.
    unit, area = card.side_multiple, card.max_work / max(1, work)
    affordable = (math.sqrt(area) - unit / 2) / math.sqrt(image.width * image.height)
    return min(scale, card.max_side / max(image.width, image.height), max(0.0, affordable))


def _side(pixels: float, card: ModelCard) -> int:
    unit = card.side_multiple
    least, most = math.ceil(card.min_side / unit), card.max_side // unit
    return min(max(round(pixels / unit), least), most) * unit


def unfit_together(spec: JobSpec, card: ModelCard) -> Iterator[Fault]:
    """Parameters that mean nothing without others, or that the model cannot draw from together."""
    if spec.image is None:
        for name in ("mask_image", "strength"):
            if getattr(spec, name) is not None:
                yield f"/{name}", "needs_image", "goes with image: the picture to begin with"
    if spec.mask_blur and spec.mask_image is None:
        yield "/mask_blur", "needs_mask_image", "goes with mask_image"
    if spec.image is not None and spec.mask_image is not None and _differ(spec.image, spec.mask_image):
        shape = f"{spec.image.width} x {spec.image.height}"
        yield "/mask_image", "another_shape", f"must have the shape of image: {shape} pixels, or as many times those"
    if spec.image_embedding is None:
        yield from _task_unknown(spec, card)
    yield from unfit_points(spec, card)
    yield from unfit_for_fewer(spec)
    yield from _nothing_left(spec, card)


def _nothing_left(spec: PictureSpec, card: ModelCard) -> Iterator[Fault]:
    """So little strength that no step is left of the way: steps times strength is rounded down."""
    if spec.image is None or spec.strength is None:
        return
    steps = spec.num_inference_steps
    if spec.strength == 0:
        yield "/strength", "too_little", "must be above 0: nothing would be drawn"
    elif steps_drawn(spec, card.family) < 1:
        yield (
            "/strength",
            "too_little",
            f"leaves nothing to do in {steps} steps: take at least {least_strength(steps)}, or more steps",
        )


def least_strength(steps: int) -> Decimal:
    """The least strength of three digits that leaves one of so many steps. Rounded up: rounded to the nearest, that of
    30 steps would be 0.0333, and leave none."""
    return Context(prec=3, rounding=ROUND_UP).divide(Decimal(1), Decimal(steps))


def steps_drawn(spec: PictureSpec, family: str) -> int:
    """Of the steps of a job, those that are left where it begins with a picture: as its pipeline rounds them."""
    if spec.strength is None or (family in ALL_STEPS and spec.mask_image is None):
        return spec.num_inference_steps
    return int(spec.num_inference_steps * spec.strength)


def _differ(one: InputPicture, other: InputPicture) -> bool:
    return abs(one.width * other.height / (one.height * other.width) - 1) > ANOTHER_SHAPE


def task_of(spec: PictureSpec) -> str:
    """What the model is asked to do, in the card's words."""
    if spec.image is None:
        return "text-to-image"
    return "image-to-image" if spec.mask_image is None else "inpainting"


NEEDED: Final = {
    "text-to-image": "leave image out",
    "image-to-image": "give image without mask_image",
    "inpainting": "give image and mask_image",
}


def _task_unknown(spec: PictureSpec, card: ModelCard) -> Iterator[Fault]:
    task = task_of(spec)
    if task not in card.tasks and not (task == TEXT_TO_IMAGE and VARIATION in card.tasks):
        pointer = "/mask_image" if task == "inpainting" else "/image"
        fit = " or ".join(NEEDED[each] for each in card.tasks if each in NEEDED)
        yield pointer, "not_taken", f"does not fit: {card.name} does {', '.join(card.tasks)} only; {fit}"


def fitting_notes(spec: PictureSpec) -> list[str]:
    """What to tell of a picture that is drawn in another size than it came in."""
    image = spec.image
    if image is None or (image.width, image.height) == (spec.width, spec.height):
        return []
    was, now = f"{image.width} x {image.height}", f"{spec.width} x {spec.height}"
    ratio = image.width * spec.height / (image.height * spec.width)
    how = "is stretched to" if abs(ratio - 1) > STRETCHED else "is drawn at"
    return [f"The picture of {was} pixels {how} {now}."]
