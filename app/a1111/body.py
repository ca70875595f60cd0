"""What clients send to draw: the fields that mean something here, with the types that the web UI reads leniently.

Every further field is taken as well; unused.py says which of them have no effect. Refuses to know models.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.contract.messages.inputs import MAX_BASE64
from app.contract.messages.spec import MAX_SEED
from app.contract.messages.texts import MAX_NAME
from app.jobs.translation import LONGEST_PROMPT

WITH_PICTURES: Final = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdapi/v1/png-info")
"""Paths whose JSON holds pictures."""

PICTURES: Final = frozenset({"init_images", "mask", "image", "input_image", "args"})
"""Members that hold them, or lists of them, at any depth. Scripts have pictures among arguments without names."""

DENOISING = 0.75
"""The web UI's own default, for requests that say nothing."""

MASK_BLUR = 4.0
"""The same."""

Base64 = Annotated[str, Field(min_length=1, max_length=MAX_BASE64)]


class Generation(BaseModel):
    """Parameters of a picture. Numbers may be written as strings; null and "" are "not given"; whatever else there is
    is accepted, and named as unused in the answer's `info` unless it says nothing."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    prompt: str = Field(default="", max_length=LONGEST_PROMPT, description="What the picture shows")
    negative_prompt: str = Field(default="", max_length=LONGEST_PROMPT, description="What it should not show")
    seed: int | None = Field(default=None, ge=-1, le=MAX_SEED, description="-1 or missing: one is drawn")
    sampler_name: str | None = Field(
        default=None, max_length=MAX_NAME, description="One of GET /sdapi/v1/samplers. Missing: the model's own"
    )
    sampler_index: str | None = Field(default=None, max_length=MAX_NAME, description="The older word for it")
    scheduler: str | None = Field(default=None, max_length=MAX_NAME, description="One of GET /sdapi/v1/schedulers")
    eta: float | None = Field(default=None, description="1 with DDIM: its stochastic kind")
    steps: int | None = Field(default=None, ge=1, description="Missing: the model's own default")
    cfg_scale: float | None = Field(default=None, ge=0, description="Missing: the model's own default")
    width: int | None = Field(default=None, ge=1, description="Missing: the model's own, or the picture's")
    height: int | None = Field(default=None, ge=1, description="Missing: the model's own, or the picture's")
    batch_size: int = Field(default=1, ge=1, description="So many pictures")
    n_iter: int = Field(default=1, ge=1, description="So many times as many")
    override_settings: dict[str, Any] = Field(
        default_factory=dict,
        description="sd_model_checkpoint, CLIP_stop_at_last_layers, samples_format and jpeg_quality have an effect",
    )
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict, description="ControlNet has an effect")
    send_images: bool = Field(default=True, description="False: the answer has none; the job keeps them")
    save_images: bool = Field(default=False, description="Without effect: pictures are kept for a while in any case")

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None and value != ""}

    @property
    def count(self) -> int:
        """How many pictures."""
        return self.batch_size * self.n_iter

    def extras(self) -> dict[str, Any]:
        """The fields that are not declared here."""
        return self.model_extra or {}

    def parameters(self) -> dict[str, Any]:
        """What an answer repeats: what was understood, without pictures, and nothing of what was not."""
        return self.model_dump(exclude=set(self.extras()) | {"alwayson_scripts", "override_settings"})


class TextToImage(Generation):
    """What POST /sdapi/v1/txt2img takes."""


class ImageToImage(Generation):
    """What POST /sdapi/v1/img2img takes."""

    init_images: list[Base64] = Field(
        min_length=1, max_length=1, description="The picture, in base64 or as a data: URL"
    )
    mask: Base64 | None = Field(default=None, description="White is repainted, or where it is opaque, if it has alpha")
    denoising_strength: float = Field(default=DENOISING, ge=0, le=1, description="How much is drawn anew")
    mask_blur: float = Field(default=MASK_BLUR, ge=0, le=64, description="Pixels by which the mask is softened")
    inpainting_mask_invert: bool = Field(default=False, description="1: what is black is repainted")
    resize_mode: int = Field(
        default=0,
        ge=0,
        le=3,
        description="0: stretched to the size. Others too, and are named if that differs",
    )

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"init_images": None, "mask": None}
