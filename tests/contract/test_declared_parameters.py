"""Parameters that nobody but their declaration and the engine names: every way in and out of the service has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.cli.parameters import spelled
from app.contract.messages.card import ModelCard
from app.contract.messages.kept_spec import asked_again, recorded
from app.contract.messages.params import JobRequest, resolve
from app.contract.messages.spec import PARAMETERS, JobSpec
from app.openai.schemas import ImageGeneration
from app.replicate.input import published_schema
from app.routes.page_parameters import parameters_module
from worker.engine.request import Request

DECLARED: dict[str, tuple[Any, Any, str]] = {
    "guidance_rescale": (0.7, 1.5, "guidance_rescale must be at most 1, not 1.5"),
    "clip_skip": (2, 33, "clip_skip must be at most 32, not 33"),
    "guidance_end": (0.5, 1.5, "guidance_end must be at most 1, not 1.5"),
}
"""A value, one that is too much, and what is said of that."""


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"takes": tuple(name for name in DECLARED if PARAMETERS[name].announced)})


@pytest.mark.parametrize("name", DECLARED)
def test_everybody_knows_it(card: ModelCard, name: str) -> None:
    value, too_much, refusal = DECLARED[name]
    spec = resolve(JobRequest(prompt="a red circle", seed=7, **{name: value}), card)
    stored = JobSpec.model_validate_json(spec.model_dump_json())
    assert getattr(Request.of("token", stored), name) == value
    assert asked_again(recorded(stored, seed=7))[name] == value
    assert spelled()[name].flags == (f"--{name.replace('_', '-')}",)
    page = json.loads(parameters_module().removeprefix("export const PARAMETERS = ").rstrip(";\n"))
    assert name in [field["name"] for field in page if field["part"] == "picture"]
    for shown in (JobRequest.model_json_schema(), ImageGeneration.model_json_schema(), published_schema(card)):
        assert shown["properties"][name]["description"]
    with pytest.raises(ValueError, match=refusal):
        Request.of("token", spec.model_copy(update={name: too_much}))


@pytest.mark.parametrize("name", DECLARED)
def test_a_job_that_does_not_say_it_is_drawn_as_before_there_was_such_a_thing(card: ModelCard, name: str) -> None:
    said_nothing = resolve(JobRequest(prompt="a red circle", seed=7), card)
    assert getattr(said_nothing, name) == JobSpec.model_fields[name].default


def test_no_layers_left_out_is_the_same_as_nothing_said(card: ModelCard) -> None:
    """As in diffusers, where `clip_skip=0` reads the last layer: forms and programs send it for none."""
    assert resolve(JobRequest(prompt="a red circle", clip_skip=0), card).clip_skip is None
