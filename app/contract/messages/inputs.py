"""Pictures that come in, and adapters by name: what a job's record keeps of them, and how a request refers to them.

A record never holds bytes: a picture is named by the hash of what is stored of it (`inputs/<tenant>/<sha256>`). Knows
shapes. Refuses to know where pictures lie and what a model makes of them.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.contract.messages import patterns
from app.contract.messages.request_body import RequestBody
from app.contract.messages.texts import Name

MAX_BASE64 = 32 * 1024 * 1024
"""Characters of a picture inside a JSON body."""

OTHER_WAYS: Final = ("input", "job", "index", "b64", "url")
"""Of naming a picture in a request, beside its `sha256`."""

MOST_CONTROLS = 4
MOST_LORAS = 4
MAX_URL = 2_048


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class InputPicture(_Stored):
    """A picture that came in, as it is stored: upright, without metadata. Sides are in pixels."""

    sha256: str = Field(pattern=patterns.SHA256)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    content_type: str


class Control(_Stored):
    """A ControlNet (Zhang et al. 2023) over a part of the steps: from the fraction `start` to `end` of them."""

    model: str
    image: InputPicture
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


class Lora(_Stored):
    """A low-rank adapter (Hu et al. 2021) of the model's, and how strongly it counts."""

    name: str
    weight: float = 1.0


class ImageReference(RequestBody):
    """Which picture: `input`, `job` with `index`, `b64`, `url` or `sha256`, exactly one of them.

    What a job's record says of a picture is such a reference as well: by its `sha256`; its sides and type are not read.
    """

    input: str | None = Field(default=None, pattern=patterns.INPUT_ID, description="The id of an upload")
    job: str | None = Field(default=None, pattern=patterns.WHOLE_JOB_ID, description="A finished job of yours")
    index: int | None = Field(default=None, ge=0, le=999, description="Which of the job's pictures; missing: the first")
    b64: str | None = Field(
        default=None, min_length=1, max_length=MAX_BASE64, description="The file in base64, or a data: URL of it"
    )
    url: str | None = Field(
        default=None, min_length=1, max_length=MAX_URL, description="Where this service fetches it, if it may"
    )
    sha256: str | None = Field(
        default=None, pattern=patterns.SHA256, description="An earlier picture of yours, as a record names it"
    )
    width: int | None = Field(default=None, description="Not read")
    height: int | None = Field(default=None, description="Not read")
    content_type: str | None = Field(default=None, max_length=64, description="Not read")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        said = [name for name in ("input", "job", "b64", "url", "sha256") if getattr(self, name) is not None]
        if len(said) != 1:
            raise PydanticCustomError(
                "not_one_picture", "must name one picture: by input, job, b64, url or sha256, exactly one of them"
            )
        if self.index is not None and self.job is None:
            raise PydanticCustomError("index_without_job", "index goes with job only")
        return self


class AskedControl(RequestBody):
    """One ControlNet of a request."""

    model: Name = Field(description="One of the model's `controls`")
    image: ImageReference
    scale: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False, description="0: without effect")
    start: float = Field(default=0.0, ge=0, le=1, description="From this fraction of the steps on")
    end: float = Field(default=1.0, ge=0, le=1, description="Up to this fraction of the steps")

    @model_validator(mode="after")
    def _has_steps(self) -> Self:
        if self.start >= self.end:
            raise PydanticCustomError("empty_range", "start must lie below end")
        return self


class AskedLora(RequestBody):
    """One LoRA of a request."""

    name: Name = Field(description="One of the model's `loras`")
    weight: float = Field(default=1.0, ge=-4, le=4, allow_inf_nan=False)


Controls = Annotated[list[AskedControl], Field(max_length=MOST_CONTROLS)]
Loras = Annotated[list[AskedLora], Field(max_length=MOST_LORAS)]
