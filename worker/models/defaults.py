"""What a model is good at: its native size, its usual settings, how far one may go, and the words it has learned.

Read from `darkroom.json` in the model's folder where there is one, else derived from the model itself: from its native
size, and from what shows that it was distilled to a few steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from app.contract.messages.model_name import folder_name
from app.contract.messages.schedulers import canonical
from app.contract.messages.vocabulary import words_of
from worker.models.errors import ModelError
from worker.models.few_steps import FewSteps, few_steps, may_be_turbo, tell
from worker.models.folder import DEFAULTS, ModelFolder

USUAL_STEPS = 30

MOST_WORDS, LONGEST_ENTRY = 1000, 60
MOST_EXAMPLES, LONGEST_EXAMPLE = 24, 200
"""Entries, and characters of one: every announcement of the model and every answer of GET /v1/models carries them."""


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
    prior_num_inference_steps: int | None = Field(default=None, gt=0)
    prior_guidance_scale: float | None = Field(default=None, ge=0)
    # JSON knows no tuples, and strict mode takes nothing else for one.
    vocabulary: tuple[str, ...] = Field(default=(), strict=False)
    examples: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("vocabulary")
    @classmethod
    def _is_a_list_of_words(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return _bounded(entries, most=MOST_WORDS, longest=LONGEST_ENTRY)

    @field_validator("examples")
    @classmethod
    def _is_a_list_of_prompts(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        return _bounded(prompts, most=MOST_EXAMPLES, longest=LONGEST_EXAMPLE)


def _bounded(entries: tuple[str, ...], *, most: int, longest: int) -> tuple[str, ...]:
    """Each once, in their order. Raises ValueError for what no list should hold."""
    if not entries:
        raise ValueError("an empty list says nothing: leave it out")
    if len(entries) > most:
        raise ValueError(f"{len(entries)} entries, at most {most} can be announced")
    for entry in entries:
        if len(entry) > longest:
            raise ValueError(f"{entry[:longest]!r}… is longer than {longest} characters")
        if not entry.isprintable() or not words_of(entry):
            raise ValueError(f"{entry!r} has no word in it, or what cannot be printed")
    return tuple(dict.fromkeys(entries))


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
    if folder.pipeline.sides == "fixed":
        derived |= {"min_side": min(width, height), "max_side": max(width, height)}
    if folder.pipeline.usual is not None:
        derived["num_inference_steps"], derived["guidance_scale"] = folder.pipeline.usual
    if folder.pipeline.prior is not None:
        derived["prior_num_inference_steps"], derived["prior_guidance_scale"] = folder.pipeline.prior
    stated = folder.read_json(DEFAULTS) if (folder.path / DEFAULTS).is_file() else {}
    if isinstance(named := stated.get("scheduler"), str):
        stated["scheduler"] = canonical(named) or named
    distilled = _distilled(folder, (scheduler, str(stated.get("scheduler"))))
    if distilled is not None:
        derived |= {name: getattr(distilled, name) for name in ("num_inference_steps", "guidance_scale")}
    values = derived | stated
    if "num_inference_steps" not in stated and isinstance(most := stated.get("max_steps"), int):
        values["num_inference_steps"] = min(values.get("num_inference_steps", USUAL_STEPS), max(1, most))
    try:
        # Ten pictures of native size with fifty steps, or one of twice the side with more steps than that.
        defaults = Defaults(**{"max_work": width * height * 500} | values)
    except ValidationError as error:
        where = ", ".join(map(_said, error.errors()))
        raise ModelError(f"{folder.path / DEFAULTS} has a wrong entry ({where}); correct it.") from error
    config = folder.config("scheduler")
    is_stated = bool({"num_inference_steps", "guidance_scale"} & stated.keys())
    tell(distilled, defaults.model_dump(), is_stated=is_stated, may_be=may_be_turbo(scheduler, config))
    return defaults


def _said(problem: ErrorDetails) -> str:
    """Which entry, and in our own words what is wrong with it."""
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['ctx']['error']}" if problem["type"] == "value_error" else where


def _distilled(folder: ModelFolder, schedulers: tuple[str, str]) -> FewSteps | None:
    """By its kind, or by what the folder shows."""
    if folder.pipeline.few_steps is not None:
        return FewSteps(*folder.pipeline.few_steps, because=f"it is a {folder.pipeline.name}")
    return few_steps(schedulers, _names(folder))


def _names(folder: ModelFolder) -> list[str]:
    """What the folder and its authors call the model."""
    # Of a hub's repository or of a folder elsewhere: only the last word is a name.
    paths = (folder.index.get("_name_or_path"), folder.config("unet").get("_name_or_path"))
    return [folder_name(folder.path), *(folder_name(Path(str(path))) for path in paths if path)]


def _multiple(side: float, of: int) -> int:
    return max(of, int(side) // of * of)
