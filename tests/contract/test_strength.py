"""A strength with which no step is left is refused at the door, with one that would do."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.messages.card import ModelCard
from app.contract.messages.from_pictures import least_strength
from app.contract.messages.inputs import ImageReference, InputPicture
from app.contract.messages.params import JobRequest, ParamsRejected, resolve

PICTURE = InputPicture(sha256="a" * 64, width=128, height=128, content_type="image/png")
TASKS = ("text-to-image", "image-to-image", "inpainting")
TAKES = ("image", "strength", "mask_image", "mask_blur")


def strength_errors(card: ModelCard, **asked: Any) -> list[tuple[str, str, str]]:
    """Of a request with a picture, and a mask if asked for."""
    named = {"image": ImageReference(sha256=PICTURE.sha256)}
    if asked.pop("mask", False):
        named["mask_image"] = ImageReference(sha256=PICTURE.sha256)
    pictures = {f"/{name}": PICTURE for name in named}
    try:
        resolve(JobRequest(prompt="a red circle", **named, **asked), card, pictures)
    except ParamsRejected as refused:
        return [(error.pointer, error.code, error.detail) for error in refused.errors]
    return []


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"strength": 0.5, "num_inference_steps": 2}, None),
        ({"strength": 0.125, "num_inference_steps": 8}, None),
        (
            {"strength": 0.12, "num_inference_steps": 8},
            "nothing to do in 8 steps: take at least 0.125, or more steps",
        ),
        (
            {"strength": 0.9, "num_inference_steps": 1},
            "nothing to do in 1 steps: take at least 1, or more steps",
        ),
        ({"strength": 0.0}, "must be above 0: nothing would be drawn"),
        ({"strength": 0.0, "mask": True}, "must be above 0: nothing would be drawn"),
        ({}, None),
    ],
)
def test_what_is_left_of_the_steps_is_measured(card: ModelCard, asked: dict[str, Any], sentence: str | None) -> None:
    edits = card.model_copy(update={"tasks": TASKS, "takes": TAKES})
    found = strength_errors(edits, **asked)
    assert [(pointer, code) for pointer, code, _ in found] == [("/strength", "too_little")] * (sentence is not None)
    assert all(sentence in detail for _, _, detail in found)


def test_the_strength_that_is_named_does(card: ModelCard) -> None:
    """Whatever the number of steps: as it is written, it leaves one."""
    edits = card.model_copy(update={"tasks": TASKS, "takes": TAKES, "max_steps": 10_000, "max_work": 10**12})
    for steps in (2, 3, 7, 30, 99):
        [(_, _, detail)] = strength_errors(edits, strength=0.5 / steps, num_inference_steps=steps)
        named = detail.partition("at least ")[2].partition(",")[0]
        assert strength_errors(edits, strength=float(named), num_inference_steps=steps) == [], detail
    assert all(int(steps * float(least_strength(steps))) == 1 for steps in range(1, 10_001))


def test_models_that_take_all_steps_on_the_rest_of_the_way_take_less(card: ModelCard) -> None:
    """Until there is a mask: then their pipeline is another one."""
    names = {"tasks": TASKS, "takes": TAKES, "family": "LatentConsistencyModelPipeline"}
    distilled = card.model_copy(update=names)
    few = {"strength": 0.1, "num_inference_steps": 4}
    assert strength_errors(distilled, **few) == []
    assert [code for _, code, _ in strength_errors(distilled, **few, mask=True)] == ["too_little"]
