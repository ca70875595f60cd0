"""clip_skip: a prompt is read without the text encoder's last layers, and remembered apart from the whole reading."""

from __future__ import annotations

import pytest
import torch

from app.contract.messages.params import JobRequest, ParamsRejected, resolve
from tests.engine.driving import distance, engine_of, final_latents, run, stock, wish
from tests.engine.test_equation import IN_COMPANY
from worker.engine.errors import GenerationFailed
from worker.engine.events import Failed, Finished
from worker.engine.request import Request
from worker.models.announced import describe
from worker.models.bundle import Bundle
from worker.models.schedulers import StepLimits

LAYERS = 2
"""Of the tiny models' text encoders."""

MOST = {"epsilon_bundle": LAYERS, "xl_bundle": LAYERS - 1, "lcm_bundle": LAYERS}
"""SDXL leaves out one in any case."""


def scheduler_of(name: str) -> str:
    return "lcm" if name == "lcm_bundle" else "euler"


def stock_latents(bundle: Bundle, asked: Request) -> torch.Tensor:
    """diffusers 0.42 looks for the final norm where CLIPTextModel had it before transformers 5."""
    encoder = bundle.text_encoder
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(encoder, "text_model"):
            patch.setitem(encoder.__dict__, "text_model", encoder)
        latents: torch.Tensor = stock(bundle, asked, output_type="latent")
        return latents


@pytest.mark.parametrize("name", MOST)
def test_in_company_it_is_the_stock_pipelines(name: str, request: pytest.FixtureRequest) -> None:
    """The same prompt read in several ways at once, as a negative prompt too, and an empty one."""
    bundle: Bundle = request.getfixturevalue(name)
    scheduler, prompt = scheduler_of(name), "a red circle"
    requests = [
        wish("a", scheduler=scheduler, prompt=prompt, clip_skip=1, negative_prompt=prompt, num_inference_steps=4),
        wish("b", scheduler=scheduler, prompt=prompt, num_inference_steps=3, guidance_scale=1.0),
        wish("c", scheduler=scheduler, prompt=prompt, clip_skip=MOST[name], num_inference_steps=5, seed=2),
        wish("d", scheduler=scheduler, prompt="", clip_skip=1, num_inference_steps=3, guidance_scale=1.0, seed=3),
    ]
    together = final_latents(bundle, *requests)
    for asked in requests:
        expected = stock_latents(bundle, asked)
        assert min(distance(latents, expected) for latents in together) <= IN_COMPANY, asked.id


def test_it_reaches_the_picture(epsilon_bundle: Bundle) -> None:
    skipped, whole = (final_latents(epsilon_bundle, wish(clip_skip=layers))[0] for layers in (1, None))
    assert distance(skipped, whole) > 25 * IN_COMPANY


@pytest.mark.parametrize("name", MOST)
def test_more_layers_than_there_are_are_refused_by_a_sentence(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    scheduler, most = scheduler_of(name), MOST[name]
    too_many = wish("a", scheduler=scheduler, num_inference_steps=2, clip_skip=most + 1)
    last = run(engine_of(bundle), too_many, wish("b", scheduler=scheduler, num_inference_steps=2, clip_skip=most))
    assert isinstance(last["b"], Finished)
    assert isinstance(last["a"], Failed)
    assert isinstance(last["a"].error, GenerationFailed)
    assert f"clip_skip must be at most {most} with this model" in str(last["a"].error)
    assert f"not {most + 1}." in str(last["a"].error)


@pytest.mark.parametrize("name", MOST)
def test_the_gateway_refuses_them_by_the_card(name: str, request: pytest.FixtureRequest) -> None:
    bundle, most = request.getfixturevalue(name), MOST[name]
    card = describe(bundle, seats=1, limits={bundle.defaults.scheduler: StepLimits(1, 50)})
    assert card.max_clip_skip == most
    assert resolve(JobRequest(prompt="a", clip_skip=most), card).clip_skip == most
    with pytest.raises(ParamsRejected) as refused:
        resolve(JobRequest(prompt="a", clip_skip=most + 1), card)
    [error] = refused.value.errors
    assert (error.pointer, error.detail) == ("/clip_skip", f"must be at most {most} with this model")
