"""What a model is good at: its native size, its usual settings and how far one may go.

Read from `darkroom.json` in the model's folder where there is one, else derived from the model itself.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.models.errors import ModelError
from worker.models.folder import DEFAULTS, ModelFolder


class Defaults(BaseModel):
    """Sides are in pixels. `max_work` bounds width x height x num_images x num_inference_steps of one request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    min_side: int = Field(gt=0)
    max_side: int = Field(gt=0)
    num_inference_steps: int = Field(default=30, gt=0)
    max_steps: int = Field(default=150, gt=0)
    guidance_scale: float = Field(default=7.5, ge=0)
    max_guidance_scale: float = Field(default=30.0, gt=0)
    max_images: int = Field(default=10, gt=0)
    max_work: int = Field(gt=0)
    scheduler: str


def read_defaults(folder: ModelFolder, *, width: int, height: int, side_multiple: int, scheduler: str) -> Defaults:
    """The folder's own `darkroom.json` over what follows from the model's native size.

    Raises ModelError for a file that is damaged or has an unknown or impossible entry.
    """
    derived: dict[str, Any] = {
        "width": width,
        "height": height,
        "min_side": _multiple(min(width, height) / 2, side_multiple),
        "max_side": _multiple(max(width, height) * 2, side_multiple),
        "scheduler": scheduler,
    }
    stated = folder.read_json(DEFAULTS) if (folder.path / DEFAULTS).is_file() else {}
    values = derived | stated
    try:
        # Ten pictures of native size with fifty steps, or one of twice the side with more steps than that.
        return Defaults(**{"max_work": width * height * 500} | values)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise ModelError(f"{folder.path / DEFAULTS} has a wrong entry ({where}); correct it.") from error


def _multiple(side: float, of: int) -> int:
    return max(of, int(side) // of * of)
