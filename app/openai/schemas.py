"""OpenAI's images: what its clients send to draw, edit and vary, what it means in ours, and the body they read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app.contract.messages import patterns
from app.contract.messages.from_pictures import STRENGTH_OF_A_VARIATION
from app.contract.messages.inputs import MAX_BASE64
from app.contract.messages.params import JobRequest
from app.contract.messages.request_body import RequestBody
from app.contract.messages.spec import OutputFormat
from app.contract.messages.texts import MAX_NAME, READABLE, VISIBLE
from app.jobs.translation import LONGEST_PROMPT, Wording, cut_to_length, length_warning, sides

FEWEST_STEPS = 12
"""Guessed, where a request names no steps, for how often it may be worth showing a picture on the way."""


GPT_IMAGE = ("gpt-image", "chatgpt-image")
"""What the names of OpenAI's own image models begin with, which are aliases here."""

_Prompt = Annotated[str, Field(max_length=LONGEST_PROMPT), READABLE, VISIBLE]


class ImageRequest(JobRequest):
    """What all of OpenAI's requests for pictures have, and every parameter of a job beside it (`extra_body` in the
    Python client)."""

    prompt: _Prompt = Field(
        description="What the picture shows. Of a very long one the end is cut, which no model reads, with a warning"
    )
    model: Annotated[
        str | None, Field(max_length=MAX_NAME), BeforeValidator(lambda given: None if given == "" else given)
    ] = Field(default=None, description="One of GET /v1/models. Missing or empty: the one marked `default` there")
    n: int | None = Field(default=None, ge=1, le=10, description="The same as num_images")
    size: str | None = Field(
        default=None,
        pattern=patterns.SIZE_OR_AUTO,
        description="Width x height; auto: native, or that of the picture that is sent",
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        default=None, description="Both, if it is missing; base64 alone for a model asked for as gpt-image-..."
    )
    stream: bool | None = Field(default=None, description="Server-sent events instead of one answer")
    partial_images: int | None = Field(default=None, ge=0, le=3, description="Pictures on the way, when streaming")
    background: Literal["auto", "opaque"] | None = Field(default=None, description="Pictures are opaque")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        default=None, description="Without effect: num_inference_steps is what decides"
    )
    output_compression: int | None = Field(default=None, ge=0, le=100, description="The same as output_quality")
    complexity: Literal["low", "medium", "high"] | None = Field(default=None, description="Without effect")
    user: str | None = Field(default=None, max_length=512, description="Without effect")
    safety_identifier: str | None = Field(default=None, max_length=512, description="Without effect")

    def in_our_words(self) -> Wording:
        """The job that is meant."""
        given = self.model_dump(exclude_unset=True, include=set(JobRequest.model_fields))
        if self.stream and self.partial_images:
            steps = self.num_inference_steps or FEWEST_STEPS
            given.setdefault("preview_every", max(1, steps // (2 * self.partial_images + 2)))
        wording = Wording(given | {"prompt": cut_to_length(self.prompt or "")})
        if self.n is not None:
            wording.put("n", num_images=self.n)
        if self.size not in (None, "auto"):
            wording.put("size", **sides(str(self.size)))
        if self.output_compression is not None:
            wording.put("output_compression", output_quality=self.output_compression)
        return wording

    def answered_as(self) -> Literal["url", "b64_json"] | None:
        """In which form the pictures are wanted; None for both.

        OpenAI's GPT image models answer base64 and never a link. Open WebUI relies on that: it takes a link first, and
        refuses one into its own network.
        """
        if self.response_format is None and (self.model or "").startswith(GPT_IMAGE):
            return "b64_json"
        return self.response_format

    def warnings(self) -> list[str]:
        """What to say of the request beside what the job says."""
        return length_warning(self.prompt or "", field="prompt")


class ImageGeneration(ImageRequest):
    """What POST /v1/images/generations takes."""

    style: Literal["vivid", "natural"] | None = Field(default=None, description="Without effect")
    moderation: Literal["auto", "low"] | None = Field(default=None, description="Without effect")


class ImageEdit(ImageRequest):
    """The fields of the form that POST /v1/images/edits takes, beside its files."""

    input_fidelity: Literal["high", "low"] | None = Field(
        default=None, description="Without effect: strength is what decides"
    )
    moderation: Literal["auto", "low"] | None = Field(default=None, description="Without effect")


class ImageRef(RequestBody):
    """Which picture, in a JSON body: exactly one of the two."""

    image_url: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_BASE64,
        description="A data: URL; a link, if this service fetches",
    )
    file_id: str | None = Field(
        default=None, pattern=patterns.INPUT_ID, description="The id of a picture that was sent in"
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.image_url is None) == (self.file_id is None):
            raise PydanticCustomError("not_one_picture", "must be image_url or file_id, exactly one of them")
        return self


class ImageEditInJson(ImageEdit):
    """The JSON that POST /v1/images/edits takes instead of a form."""

    images: list[ImageRef] = Field(
        min_length=1, max_length=1, description="The picture to begin with. This service draws from one at a time"
    )
    mask: ImageRef | None = Field(
        default=None, description="A picture of the same shape: what is transparent in it is repainted"
    )


class ImageVariation(ImageRequest):
    """The fields of the form that POST /v1/images/variations takes, beside its file."""

    prompt: _Prompt | None = Field(  # type: ignore[assignment]
        default=None,
        description="What the picture shows; needed where its file has no record that says so, and the model draws from"
        " no embeddings",
    )
    strength: float = Field(
        default=STRENGTH_OF_A_VARIATION, ge=0, le=1, allow_inf_nan=False, description="How much is drawn anew"
    )


class GeneratedImage(BaseModel):
    """One picture; the link needs no key and works for a while (an hour, unless the operator says otherwise)."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = Field(default=None, description="What was taken of a prompt that was cut")
    seed: int = Field(description="Draws this picture again, with num_images 1")


class GeneratedImages(BaseModel):
    """The pictures of one request, and the job that made them."""

    created: int = Field(description="Seconds since 1970")
    data: list[GeneratedImage]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str
    seed: int
    job_id: str = Field(description="GET /v1/jobs/{job_id} has timings and every parameter")
    warnings: list[str]
