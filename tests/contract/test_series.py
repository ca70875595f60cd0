"""How many pictures are drawn, kept and paid for, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.messages.card import ModelCard
from app.contract.messages.inputs import InputPicture
from app.contract.messages.job import cost_of
from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from app.contract.messages.spec import JUDGED, JobSpec


def drawn(card: ModelCard, **asked: Any) -> JobSpec:
    return resolve(JobRequest(prompt="a red circle", **asked), beside_a_scorer(card))


def beside_a_scorer(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"takes": JUDGED, "scorer": "starter-scorer", "max_images": 8, "max_work": 10**9})


def test_what_may_be_drawn_is_paid_for(card: ModelCard) -> None:
    one = cost_of(drawn(card, num_images=1))
    assert cost_of(drawn(card, num_images=2, best_of=8)) == 8 * one
    assert cost_of(drawn(card, num_images=2, min_probability=0.5)) == 6 * one
    assert cost_of(drawn(card, num_images=2, expect=["a red circle"])) == 2 * one


@pytest.mark.parametrize(
    ("asked", "pointer", "detail"),
    [
        ({"best_of": 9}, "/best_of", "must be 1 to 8"),
        ({"best_of": 2, "num_images": 3}, "/best_of", "at least num_images, 3"),
        ({"num_images": 9}, "/num_images", "must be 1 to 8"),
        ({"num_images": 3, "min_probability": 0.5}, "/min_probability", "2 times again, and so 9; at most 8"),
        ({"best_of": 8, "seed": 2**63 - 4}, "/seed", "below"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(card: ModelCard, asked: dict[str, Any], pointer: str, detail: str) -> None:
    with pytest.raises(ParamsRejected) as refused:
        drawn(card, **asked)
    [error] = refused.value.errors
    assert error.pointer == pointer
    assert detail in error.detail


@pytest.mark.parametrize("asked", [{"min_probability": 1.1}, {"best_of": 0}, {"expect": []}, {"expect": [" "]}])
def test_what_is_no_number_or_text_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(asked))):
        JobRequest(prompt="a red circle", **asked)


def test_all_work_that_may_be_done_is_bounded(card: ModelCard) -> None:
    own = beside_a_scorer(card).model_copy(update={"max_work": card.width * card.height * card.num_inference_steps * 3})
    resolve(JobRequest(prompt="a red circle", best_of=3), own)
    with pytest.raises(ParamsRejected) as refused:
        resolve(JobRequest(prompt="a red circle", best_of=4), own)
    assert refused.value.errors[0].code == "too_much_work"


@pytest.mark.parametrize("asked", [{"best_of": 4}, {"min_probability": 0.2}])
def test_a_picture_is_fitted_to_all_that_may_be_drawn(card: ModelCard, asked: dict[str, Any]) -> None:
    """Sides that nobody said are such as can be drawn."""
    takes = ("image", "strength", *JUDGED)
    edits = beside_a_scorer(card).model_copy(update={"takes": takes, "tasks": ("image-to-image",), "max_side": 4096})
    bounded = edits.model_copy(update={"max_work": 4 * edits.num_inference_steps * 512**2})
    picture = InputPicture(sha256="a" * 64, width=2048, height=2048, content_type="image/png")
    request = JobRequest(prompt="a", image={"sha256": "a" * 64}, **asked)
    spec = resolve(request, bounded, {"/image": picture})
    assert spec.width * spec.height * spec.most_drawn * spec.num_inference_steps <= bounded.max_work
