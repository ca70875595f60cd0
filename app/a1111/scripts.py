"""Scripts that "always run": of those that requests carry arguments for, ControlNet means something here.

Knows the arguments of the ControlNet extension. Refuses to make a control picture of a photo: that takes a detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.contract.messages.card import ModelCard
from app.contract.messages.params import ParamError, ParamsRejected
from app.jobs.translation import linked

CONTROLNET: Final = "controlnet"
NONE: Final = "none"
WEIGHTS_FILES: Final = (".safetensors", ".ckpt", ".pth", ".pt")


class ControlUnit(BaseModel):
    """One ControlNet, as the extension's users write it; `image` may stand in an object, beside a mask of its own."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    enabled: bool = True
    model: str = NONE
    module: str = NONE
    image: str | None = None
    weight: float = Field(default=1.0, ge=0, le=2)
    guidance_start: float = Field(default=0.0, ge=0, le=1)
    guidance_end: float = Field(default=1.0, ge=0, le=1)

    @property
    def is_on(self) -> bool:
        return self.enabled and self.model.casefold() != NONE

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        image = given.get("image") or given.get("input_image")
        image = image.get("image") if isinstance(image, dict) else image
        return {name: value for name, value in given.items() if value is not None} | {"image": image or None}


def controls(scripts: Mapping[str, Any], card: ModelCard) -> dict[str, dict[str, Any]]:
    """The parts of a job's `control` that the scripts ask for, each by where it stands in the request.

    Raises ParamsRejected for a unit that cannot be run.
    """
    units = [unit for name, script in scripts.items() if is_controlnet(name) for unit in _units(name, script)]
    return {place: _control(unit, card, place) for place, unit in units if unit.is_on}


def is_controlnet(script: str) -> bool:
    return script.casefold() == CONTROLNET


def says_nothing(value: Any) -> bool:
    """Whether a client that sends all its fields sends this for "no"."""
    if isinstance(value, list):
        return all(map(says_nothing, value))
    if isinstance(value, dict):
        return not value or value.get("enabled") is False
    return not value or value == -1


def without_hash(name: str) -> str:
    """A model's name, of what the web UI shows: "name.safetensors [0123456789]"."""
    name = name.strip()
    name = name.rpartition(" [")[0] if name.endswith("]") else name
    for ending in WEIGHTS_FILES:
        name = name.removesuffix(ending)
    return name


def _units(name: str, script: Any) -> Iterator[tuple[str, ControlUnit]]:
    units = script.get("args") if isinstance(script, dict) else None
    for at, unit in enumerate(units if isinstance(units, list) else []):
        place = f"alwayson_scripts/{name}/args/{at}"
        if isinstance(unit, dict):
            try:
                yield place, ControlUnit.model_validate(unit)
            except ValidationError as error:
                said = error.errors()[0]
                raise _refused(place, "/".join(map(str, said["loc"])), said["type"], said["msg"]) from None


def _control(unit: ControlUnit, card: ModelCard, place: str) -> dict[str, Any]:
    model = without_hash(unit.model).casefold()
    named = next((each.name for each in card.controls if each.name.casefold() == model), None)
    if named is None:
        there = ", ".join(each.name for each in card.controls) or "none"
        raise _refused(place, "model", "unknown", f"is no ControlNet here; there are: {there}")
    if unit.module.casefold() != NONE:
        detail = "is not made here: send the control picture itself, with module none"
        raise _refused(place, "module", "not_taken", detail)
    if unit.image is None:
        raise _refused(place, "image", "missing", "is needed")
    span = {"start": unit.guidance_start, "end": unit.guidance_end}
    return {"model": named, "image": linked(unit.image), "scale": unit.weight, **span}


def _refused(place: str, field: str, code: str, detail: str) -> ParamsRejected:
    return ParamsRejected([ParamError(f"/{place}/{field}", code, detail)])
