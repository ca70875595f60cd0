"""Names of schedulers, in the configuration that the stock pipeline would give them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NoReturn

import diffusers
import pytest

from app.contract.messages.schedulers import CLASS_NAMES, SCHEDULERS
from tests.engine.driving import ends_in_numbers, names_for
from worker.models import schedulers
from worker.models.bundle import Bundle, load
from worker.models.pipelines import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import (
    StepLimits,
    configured,
    for_name,
    step_limits,
    step_options,
)


@pytest.fixture(scope="module")
def bundle(whole_folder: Path) -> Bundle:
    return load(whole_folder)


def config_in_a_stock_pipeline(bundle: Bundle, scheduler: Any) -> dict[str, Any]:
    with quiet_libraries():
        pipeline = diffusers.StableDiffusionPipeline(
            tokenizer=bundle.tokenizer,
            text_encoder=bundle.text_encoder,
            unet=bundle.unet,
            vae=bundle.vae,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")}


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_class_names_are_configured_as_in_a_stock_pipeline(bundle: Bundle, class_name: str) -> None:
    cls = getattr(diffusers, class_name)
    with quiet_libraries():
        ours = for_name(bundle.scheduler, class_name)
        theirs = config_in_a_stock_pipeline(bundle, cls.from_config(bundle.scheduler.config))
    known = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    # Where a class has no clip_sample of its own, the model's entry travels along unused.
    assert known == theirs


def test_the_pipelines_rewriting_is_applied(bundle: Bundle) -> None:
    for pipeline, expected in ((STABLE_DIFFUSION, (1, False)), (STABLE_DIFFUSION_XL, (0, True))):
        ddim = for_name(configured(diffusers.EulerDiscreteScheduler(steps_offset=0), pipeline), "ddim")
        assert (ddim.config.steps_offset, ddim.config.clip_sample) == expected


def test_the_models_own_words_survive(bundle: Bundle) -> None:
    for name in names_for(bundle.scheduler):
        config = for_name(bundle.scheduler, name).config
        assert (config.prediction_type, config.beta_end) == ("v_prediction", 0.012)


def test_names_that_cannot_follow_the_model_drop_out() -> None:
    names = names_for(diffusers.DDIMScheduler(prediction_type="sample"))
    assert "ddim" in names
    assert not {"pndm", "euler_a", "kdpm2", "PNDMScheduler"} & set(names)


def test_karras_is_switched_off_as_well_as_on() -> None:
    karras = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, algorithm_type="sde-dpmsolver++")
    assert for_name(karras, "dpmpp_2m").config.use_karras_sigmas is False
    assert for_name(karras, "dpmpp_2m").config.algorithm_type == "dpmsolver++"
    assert for_name(karras, "DPMSolverMultistepScheduler").config.use_karras_sigmas is True
    assert for_name(karras, "euler_karras").config.use_karras_sigmas is True


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'warp_drive' is unknown; take one of ddim, ddim_eta1"):
        for_name(diffusers.DDIMScheduler(), "warp_drive")
    with pytest.raises(ValueError, match="'eulr_a' is unknown; take euler_a"):
        for_name(diffusers.DDIMScheduler(), "eulr_a")


def test_a_name_from_elsewhere_builds_the_same() -> None:
    for other, name in (("DPM++ 2M Karras", "dpmpp_2m_karras"), ("k_euler_ancestral", "euler_a")):
        ours, theirs = (for_name(diffusers.DDIMScheduler(), which) for which in (name, other))
        assert (type(ours), dict(ours.config)) == (type(theirs), dict(theirs.config))


@pytest.mark.parametrize("error", [AssertionError, UnboundLocalError, KeyError, ZeroDivisionError])
@pytest.mark.parametrize("where", ["__init__", "set_timesteps", "step"])
def test_a_scheduler_that_raises_anything_is_left_out(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], where: str
) -> None:
    def broken(*args: Any, **options: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(schedulers, "CLASS_NAMES", ("HeunDiscreteScheduler", "DDIMScheduler"))
    monkeypatch.setattr(schedulers, "SCHEDULERS", {name: SCHEDULERS[name] for name in ("heun", "ddim")})
    functools.update_wrapper(broken, getattr(diffusers.HeunDiscreteScheduler, where))
    monkeypatch.setattr(diffusers.HeunDiscreteScheduler, where, broken)
    with quiet_libraries():
        assert set(names_for(diffusers.DDIMScheduler())) == {"ddim", "DDIMScheduler"}


def test_a_variance_that_nobody_predicts_takes_no_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """DPM++ of diffusers keeps three channels of the model's output, whatever it has, where one was learned."""
    monkeypatch.setattr(schedulers, "CLASS_NAMES", ("DPMSolverMultistepScheduler",))
    monkeypatch.setattr(schedulers, "SCHEDULERS", {})
    learned = diffusers.DPMSolverMultistepScheduler(variance_type="learned_range")
    for channels in (3, 4):
        assert step_limits(learned, max_steps=10, channels=channels)


def test_steps_that_a_model_cannot_take_are_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which they are differs from one processor to another: a root of what rounding made a little less than nothing."""
    names = ("ddim_eta1", "dpmpp_2m_karras", "dpmpp_sde_karras")
    monkeypatch.setattr(schedulers, "CLASS_NAMES", ())
    monkeypatch.setattr(schedulers, "SCHEDULERS", {name: SCHEDULERS[name] for name in names})
    zero_snr = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    with quiet_libraries():
        limits = step_limits(configured(zero_snr, STABLE_DIFFUSION), max_steps=30)
        in_stock = {steps for steps in range(1, 31) if ends_in_numbers(for_name(zero_snr, "ddim_eta1"), steps, eta=1.0)}
    assert limits["dpmpp_2m_karras"] == limits["dpmpp_sde_karras"] == StepLimits(1, 30)
    ours = limits["ddim_eta1"]
    assert set(range(ours.fewest, ours.most + 1)) - set(ours.refused) == in_stock


def test_short_names_and_class_names_do_not_collide() -> None:
    assert not set(SCHEDULERS) & set(CLASS_NAMES)


def test_the_steps_that_each_scheduler_takes() -> None:
    limits = step_limits(diffusers.PNDMScheduler(), max_steps=100)
    assert limits["euler"] == StepLimits(1, 100)
    assert limits["lcm"] == limits["LCMScheduler"] == StepLimits(1, 50)
    assert limits["PNDMScheduler"] == StepLimits(4, 100), "its Runge-Kutta start takes that many"
    assert limits["pndm"] == StepLimits(1, 100)


def test_no_more_steps_than_the_model_was_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "CLASS_NAMES", ())
    monkeypatch.setattr(schedulers, "SCHEDULERS", {"ddim": SCHEDULERS["ddim"]})
    assert step_limits(diffusers.PNDMScheduler(), max_steps=1_500)["ddim"] == StepLimits(1, 1_000)


def test_eta_is_0_as_in_the_stock_pipeline_unless_the_name_says_more() -> None:
    assert (step_options("tcd"), step_options("ddim_eta1")) == ({"eta": 0.0}, {"eta": 1.0})
