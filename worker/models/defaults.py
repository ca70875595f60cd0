"""What a model is good at: its native size, its usual settings and how far one may go.

Read from `darkroom.json` in the model's folder where there is one, else derived from the model itself: from its native
size, and from what shows that it was distilled to a few steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.contract.model_name import folder_name
from worker.models.errors import ModelError
from worker.models.few_steps import few_steps, may_be_turbo, tell
from worker.models.folder import DEFAULTS, ModelFolder

USUAL_STEPS = 30


class Defaults(BaseModel):
    """Sides are in pixels. `max_work` bounds width x height x num_images x num_inference_steps of one request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    min_side: int = Field(gt=0)
    max_side: int = Field(gt=0)
    num_inference_steps: int = Field(default=USUAL_STEPS, gt=0)
    max_steps: int = Field(default=150, gt=0)
    guidance_scale: float = Field(default=7.5, ge=0)
    max_guidance_scale: float = Field(default=30.0, gt=0)
    max_images: int = Field(default=10, gt=0)
    max_work: int = Field(gt=0)
    scheduler: str


def read_defaults(folder: ModelFolder, *, width: int, height: int, side_multiple: int, scheduler: str) -> Defaults:
    """The folder's own `darkroom.json` over what follows from the model. Says in the log what that is.

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
    distilled = few_steps((scheduler, str(stated.get("scheduler"))), _names(folder))
    if distilled is not None:
        derived |= {name: getattr(distilled, name) for name in ("num_inference_steps", "guidance_scale")}
    values = derived | stated
    if "num_inference_steps" not in stated and isinstance(most := stated.get("max_steps"), int):
        values["num_inference_steps"] = min(values.get("num_inference_steps", USUAL_STEPS), max(1, most))
    try:
        # Ten pictures of native size with fifty steps, or one of twice the side with more steps than that.
        defaults = Defaults(**{"max_work": width * height * 500} | values)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise ModelError(f"{folder.path / DEFAULTS} has a wrong entry ({where}); correct it.") from error
    config = folder.read_json("scheduler/scheduler_config.json")
    is_stated = bool({"num_inference_steps", "guidance_scale"} & stated.keys())
    tell(distilled, defaults.model_dump(), is_stated=is_stated, may_be=may_be_turbo(scheduler, config))
    return defaults


def _names(folder: ModelFolder) -> list[str]:
    """What the folder and its authors call the model."""
    # Of a hub's repository or of a folder elsewhere: only the last word is a name.
    paths = (folder.index.get("_name_or_path"), folder.read_json("unet/config.json").get("_name_or_path"))
    return [folder_name(folder.path), *(folder_name(Path(str(path))) for path in paths if path)]


def _multiple(side: float, of: int) -> int:
    return max(of, int(side) // of * of)
