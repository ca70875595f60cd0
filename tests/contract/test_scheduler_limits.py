"""A scheduler that cannot take so many steps is refused at the door, with what would fit."""

from __future__ import annotations

import pytest

from app.contract.card import ModelCard
from app.contract.params import JobRequest, ParamsRejected, resolve


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    names = (*card.schedulers, "lcm", "PNDMScheduler")
    limits = {"scheduler_min_steps": {"PNDMScheduler": 4}, "scheduler_max_steps": {"lcm": 50}}
    return card.model_copy(update={"schedulers": names, **limits})


@pytest.mark.parametrize(
    ("scheduler", "steps", "detail"),
    [
        ("lcm", 51, "must be 1 to 50 with the scheduler lcm"),
        ("PNDMScheduler", 3, "must be 4 to 100 with the scheduler PNDMScheduler"),
        ("ddim", 101, "must be 1 to 100"),
    ],
)
def test_too_many_or_too_few_steps_for_a_scheduler(card: ModelCard, scheduler: str, steps: int, detail: str) -> None:
    with pytest.raises(ParamsRejected) as refused:
        resolve(JobRequest(prompt="a", scheduler=scheduler, num_inference_steps=steps), card)
    [error] = refused.value.errors
    assert (error.pointer, error.code, error.detail) == ("/num_inference_steps", "out_of_range", detail)


@pytest.mark.parametrize(("scheduler", "steps"), [("lcm", 50), ("PNDMScheduler", 4), ("ddim", 1), ("ddim", 100)])
def test_what_fits_is_taken(card: ModelCard, scheduler: str, steps: int) -> None:
    spec = resolve(JobRequest(prompt="a", scheduler=scheduler, num_inference_steps=steps), card)
    assert spec.num_inference_steps == steps
