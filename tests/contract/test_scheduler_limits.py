"""A scheduler that cannot take so many steps is refused at the door, with what would fit."""

from __future__ import annotations

import pytest

from app.contract.messages.card import ModelCard
from app.contract.messages.params import JobRequest, ParamsRejected, resolve


@pytest.fixture
def card(card: ModelCard) -> ModelCard:
    names = (*card.schedulers, "lcm", "PNDMScheduler", "ddim_eta1")
    limits = {
        "scheduler_min_steps": {"PNDMScheduler": 4},
        "scheduler_max_steps": {"lcm": 50},
        "scheduler_refused_steps": {"ddim_eta1": (19, 20, 23)},
    }
    return card.model_copy(update={"schedulers": names, **limits})


@pytest.mark.parametrize(
    ("scheduler", "steps", "detail"),
    [
        ("lcm", 51, "must be 1 to 50 with the scheduler lcm"),
        ("PNDMScheduler", 3, "must be 4 to 100 with the scheduler PNDMScheduler"),
        ("ddim", 101, "must be 1 to 100"),
        ("ddim_eta1", 20, "is a number of steps that ddim_eta1 cannot take with this model; 18 or 21 will do"),
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


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Euler a", "euler_a"),
        ("EULER A", "euler_a"),
        ("K_EULER_ANCESTRAL", "euler_a"),
        ("DPMSolverMultistep", "dpmpp_2m"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("pndmscheduler", "PNDMScheduler"),
        (None, "dpmpp_2m"),
    ],
)
def test_a_scheduler_may_be_called_by_the_names_that_other_programs_have(
    card: ModelCard, written: str | None, name: str
) -> None:
    assert resolve(JobRequest(prompt="a", scheduler=written), card).scheduler == name


def test_a_worker_may_know_a_name_that_this_gateway_does_not(card: ModelCard) -> None:
    newer = card.model_copy(update={"schedulers": (*card.schedulers, "of_tomorrow")})
    assert resolve(JobRequest(prompt="a", scheduler="of_tomorrow"), newer).scheduler == "of_tomorrow"


@pytest.mark.parametrize(
    ("written", "detail"),
    [
        ("eulr_a", "is unknown; did you mean euler_a"),
        ("euler ancestrl", "is unknown; did you mean euler_a"),
        ("magic", "is unknown; dpmpp_2m is this model's default"),
        ("LMS", "does not work with this model; its default is dpmpp_2m"),
    ],
)
def test_an_unknown_scheduler_is_answered_with_the_nearest(card: ModelCard, written: str, detail: str) -> None:
    with pytest.raises(ParamsRejected) as refused:
        resolve(JobRequest(prompt="a", scheduler=written), card)
    [error] = refused.value.errors
    assert (error.pointer, error.code) == ("/scheduler", "unknown")
    assert error.detail.startswith(detail)
    assert len(error.detail) < 80
