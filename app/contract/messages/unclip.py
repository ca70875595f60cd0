"""What an unCLIP model (Ramesh et al. 2022) draws from beside a prompt: points of the space of image embeddings, and
how its prior gets from a text to one.

What a job's record keeps has the form that a request has, so that it can be asked again; it names pictures by hash, and
embeddings stand in it as base64 of their float32 numbers, little endian, as OpenAI's clients write them. Knows shapes.
Refuses to know how many dimensions a model's space has.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.contract.messages.inputs import ImageReference, InputPicture
from app.contract.messages.request_body import RequestBody
from app.contract.messages.texts import VISIBLE, Text

MOST_POINTS: Final = 32
"""Pictures of one job between two points."""

MOST_DIMENSIONS: Final = 4_096
"""Of an embedding: more than any CLIP has."""

WAYS: Final = ("of", "text", "vector")
"""To name a point."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", serialize_by_alias=True)


class Prior(_Stored):
    """How the prior denoises; None: as the model's card has it."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None


class Point(_Stored):
    """An image embedding: of a picture, of a text through the prior, or its numbers."""

    of: InputPicture | None = None
    text: str | None = None
    vector: str | None = None


class TextDifference(_Stored):
    """From one text to another, in the space of text embeddings."""

    before: str = Field(alias="from")
    to: str


class ImageEmbedding(Point):
    """One point, or a way: `slerp` between two points, or from a point along a `diff`; `at` says where on it, one place
    for each picture of the job."""

    slerp: tuple[Point, ...] | None = None
    diff: TextDifference | None = None
    at: tuple[float, ...] | None = None

    @property
    def points(self) -> tuple[Point, ...]:
        """One, or the two ends of a slerp."""
        return (self,) if self.slerp is None else self.slerp


Kind = Literal["prior", "image", "vector", "slerp", "diff"]
"""Of an image embedding: made of a text by the prior, of a picture, given by its numbers; or on a way."""


def kind_of(asked: ImageEmbedding | None) -> Kind:
    """Of the embeddings that a job's pictures are drawn from."""
    if asked is None:
        return "prior"
    if asked.slerp is not None or asked.diff is not None:
        return "diff" if asked.slerp is None else "slerp"
    return "image" if asked.of is not None else "prior" if asked.text is not None else "vector"


class AskedPrior(RequestBody):
    """How the prior gets from the text to an image embedding."""

    num_inference_steps: int | None = Field(default=None, ge=1, le=1_000, description="Missing: the model's own")
    guidance_scale: float | None = Field(
        default=None, ge=0, le=100, allow_inf_nan=False, description="Missing: the model's own; 1 or less: without"
    )


def _numbers(given: object) -> object:
    """Base64 of the numbers, whichever way they were written."""
    if not isinstance(given, list):
        return given
    if not all(type(number) in (int, float) for number in given):
        raise PydanticCustomError("not_numbers", "must be a list of numbers, or base64 of float32 ones")
    try:
        return base64.b64encode(struct.pack(f"<{len(given)}f", *given)).decode()
    except (OverflowError, struct.error):
        raise PydanticCustomError("not_finite", "has a number that float32 cannot hold") from None


def _finite(text: str) -> str:
    if not all(math.isfinite(number) for number in numbers_of(text)):
        raise PydanticCustomError("not_finite", "must have finite numbers only")
    return text


def numbers_of(vector: str) -> tuple[float, ...]:
    """The numbers of an embedding in base64. Raises PydanticCustomError, a ValueError."""
    try:
        data = base64.b64decode(vector, validate=True)
        numbers = struct.unpack(f"<{len(data) // 4}f", data)
    except (binascii.Error, ValueError, struct.error):
        raise PydanticCustomError(
            "not_base64", "must be a list of numbers, or base64 (RFC 4648) of float32 ones, little endian"
        ) from None
    if not 1 <= len(numbers) <= MOST_DIMENSIONS:
        raise PydanticCustomError("wrong_length", f"must have 1 to {MOST_DIMENSIONS} numbers")
    return numbers


Vector = Annotated[
    str,
    BeforeValidator(_numbers),
    AfterValidator(_finite),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": MOST_DIMENSIONS},
                {"type": "string", "contentEncoding": "base64"},
            ]
        }
    ),
]


class AskedPoint(RequestBody):
    """An image embedding, by exactly one of these."""

    of: ImageReference | None = Field(default=None, description="Of this picture")
    text: Annotated[Text, VISIBLE] | None = Field(default=None, description="What the prior makes of this text")
    vector: Vector | None = Field(
        default=None, description="Its numbers, or base64 of them as float32, little endian: as /v1/embeddings answers"
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        _one_of(self, WAYS)
        return self


class AskedTextDifference(RequestBody):
    """From one text to another."""

    model_config = ConfigDict(serialize_by_alias=True)

    before: Annotated[Text, VISIBLE] = Field(alias="from")
    to: Annotated[Text, VISIBLE]


class AskedImageEmbedding(RequestBody):
    """What to draw from in the place of a text: one point, or places on a way."""

    of: ImageReference | None = Field(default=None, description="Variations of this picture")
    text: Annotated[Text, VISIBLE] | None = Field(default=None, description="What the prior makes of this text")
    vector: Vector | None = Field(default=None, description="An embedding that /v1/embeddings answered")
    slerp: Annotated[list[AskedPoint], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="On the great circle between two points"
    )
    diff: AskedTextDifference | None = Field(
        default=None, description="From the point towards what the second text has more than the first"
    )
    at: (
        Annotated[
            list[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]],
            Field(min_length=1, max_length=MOST_POINTS),
        ]
        | None
    ) = Field(default=None, description="Where on the way, 0 to 1, one for each picture; all of them from one noise")

    @model_validator(mode="after")
    def _is_a_point_or_a_way(self) -> Self:
        _one_of(self, (*WAYS, "slerp"))
        if self.slerp is not None and self.diff is not None:
            raise PydanticCustomError("two_ways", "goes along slerp or along diff, not both")
        is_way = self.slerp is not None or self.diff is not None
        if is_way != (self.at is not None):
            raise PydanticCustomError("at_and_way", "at goes with slerp or diff, and each of those with at")
        return self


def _one_of(said: BaseModel, ways: tuple[str, ...]) -> None:
    if sum(getattr(said, way) is not None for way in ways) != 1:
        raise PydanticCustomError("not_one_point", f"must name one of {', '.join(ways)}, exactly one of them")
