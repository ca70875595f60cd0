"""Scripts that "always run": of those that requests carry arguments for, ControlNet means something here.

Knows the arguments of the ControlNet extension. Refuses to make a control picture of a photo: that takes a detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.contract.messages.card import ModelCard
from app.contract.messages.params import ParamError, ParamsRejected

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

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        image = given.get("image") or given.get("input_image")
        image = image.get("image") if isinstance(image, dict) else image
        return {name: value for name, value in given.items() if value is not None} | {"image": image or None}


def controls(scripts: Mapping[str, Any], card: ModelCard) -> list[dict[str, Any]]:
    """The `control` of a job that the scripts ask for. Raises ParamsRejected for a unit that cannot be run."""
    found = []
    for script, arguments in scripts.items():
        if is_controlnet(script):
            for place, unit in enumerate(_units(script, arguments)):
                found += _control(unit, card, pointer=f"/alwayson_scripts/{CONTROLNET}/args/{place}")
    return found


def reference(picture: str) -> dict[str, str]:
    """A picture as a job refers to it. Theirs takes links as well, where the operator lets it; so does this."""
    return {"url" if picture.startswith(("https://", "http://")) else "b64": picture}


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


def _units(script: str, arguments: Any) -> Iterator[ControlUnit]:
    units = arguments.get("args") if isinstance(arguments, dict) else None
    for place, unit in enumerate(units if isinstance(units, list) else []):
        if not isinstance(unit, dict):
            continue
        try:
            yield ControlUnit.model_validate(unit)
        except ValidationError as error:
            said = error.errors()[0]
            pointer = f"/alwayson_scripts/{CONTROLNET}/args/{place}/{'/'.join(map(str, said['loc']))}"
            raise ParamsRejected([ParamError(pointer, said["type"], said["msg"])]) from None


def _control(unit: ControlUnit, card: ModelCard, *, pointer: str) -> list[dict[str, Any]]:
    if not unit.enabled or unit.model.casefold() == NONE:
        return []
    model = without_hash(unit.model).casefold()
    named = next((each.name for each in card.controls if each.name.casefold() == model), None)
    if named is None:
        there = ", ".join(each.name for each in card.controls) or "none"
        raise ParamsRejected([ParamError(f"{pointer}/model", "unknown", f"is no ControlNet here; there are: {there}")])
    if unit.module.casefold() != NONE:
        detail = "is not made here: send the control picture itself, with module none"
        raise ParamsRejected([ParamError(f"{pointer}/module", "not_taken", detail)])
    if unit.image is None:
        raise ParamsRejected([ParamError(f"{pointer}/image", "missing", "is needed")])
    return [
        {
            "model": named,
            "image": reference(unit.image),
            "scale": unit.weight,
            "start": unit.guidance_start,
            "end": unit.guidance_end,
        }
    ]
