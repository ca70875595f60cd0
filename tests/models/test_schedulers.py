"""Names of schedulers, in the configuration that the stock pipeline would give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

from worker.models.bundle import Bundle, load
from worker.models.families import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import (
    CLASS_NAMES,
    SHORT_NAMES,
    configured,
    for_name,
    names_for,
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
    if "LMS" in class_name and class_name not in names_for(bundle.scheduler):
        pytest.skip("LMS needs scipy")
    with quiet_libraries():
        ours = for_name(bundle.scheduler, class_name)
        theirs = config_in_a_stock_pipeline(bundle, cls.from_config(bundle.scheduler.config))
    known = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    # Where a class has no clip_sample of its own, the model's entry travels along unused.
    assert known == theirs


def test_the_pipelines_rewriting_is_applied(bundle: Bundle) -> None:
    for family, expected in ((STABLE_DIFFUSION, (1, False)), (STABLE_DIFFUSION_XL, (0, True))):
        ddim = for_name(configured(diffusers.EulerDiscreteScheduler(steps_offset=0), family), "ddim")
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


def test_short_names_and_class_names_do_not_collide() -> None:
    assert not set(SHORT_NAMES) & set(CLASS_NAMES)


def test_the_steps_that_each_scheduler_takes() -> None:
    limits = step_limits(diffusers.PNDMScheduler(), max_steps=100)
    assert limits["euler"] == (1, 100)
    assert limits["lcm"] == limits["LCMScheduler"] == (1, 50)
    assert limits["PNDMScheduler"] == (4, 100), "its Runge-Kutta start takes that many"
    assert limits["pndm"] == (1, 100)
    assert step_limits(diffusers.PNDMScheduler(), max_steps=1_500)["ddim"] == (1, 1_000)


def test_eta_is_0_as_in_the_stock_pipeline_unless_the_name_says_more() -> None:
    assert (step_options("tcd"), step_options("ddim_eta1")) == ({"eta": 0.0}, {"eta": 1.0})
