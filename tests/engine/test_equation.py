"""The strongest test: a sample in a mixed, changing batch = the same sample alone = StableDiffusionPipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from app.contract.messages.schedulers import SCHEDULERS
from tests.engine.driving import Recorder, distance, drain, final_latents, last_events, run, stock, wish
from tests.engine.driving import engine_of as Engine
from tests.engine.tiny_models import SIDE
from worker.engine.events import Finished
from worker.engine.request import Request
from worker.models.bundle import Bundle
from worker.models.schedulers import for_name, works

ALONE, IN_COMPANY = 5e-5, 2e-4
"""Standard deviations of the latents. Batches of different sizes take different paths through the CPU's kernels. How
far these are apart depends on the processor: with oneDNN's for AVX2 it was up to 1.1e-4, with those for AVX-512 less
than 5e-5. What is wrong is off by far more, as tests beside these show."""


REQUESTS = [
    wish(name, scheduler=name, seed=k, num_inference_steps=4 + k % 4, guidance_scale=(1.0, 7.5, 3.0)[k % 3])
    for k, name in enumerate([*SCHEDULERS, "PNDMScheduler"])
]
"""One of each scheduler, and one of a class's name. tests/models/test_schedulers.py shows of all classes that their
names mean what they mean in the stock pipeline, by their configurations."""


@pytest.fixture(scope="module")
def expected(epsilon_bundle: Bundle) -> Callable[[Request], torch.Tensor]:
    """What the stock pipeline ends with, once for each request."""

    @cache
    def of(number: int) -> torch.Tensor:
        latents: torch.Tensor = stock(epsilon_bundle, REQUESTS[number], output_type="latent")
        return latents

    return lambda request: of(REQUESTS.index(request))


@pytest.mark.parametrize("asked", REQUESTS, ids=lambda request: request.id)
def test_every_scheduler_equals_the_stock_pipeline(
    epsilon_bundle: Bundle, asked: Request, expected: Callable[[Request], torch.Tensor]
) -> None:
    [latents] = final_latents(epsilon_bundle, asked)
    assert distance(latents, expected(asked)) <= ALONE


@pytest.mark.parametrize("scheduler", [*SCHEDULERS][1::3])
def test_velocity_models_equal_the_stock_pipeline(velocity_bundle: Bundle, scheduler: str) -> None:
    """test_compile.py shows of every scheduler that its table is the stock one with either prediction."""
    scale = (0.0, 1.0, 7.5)[list(SCHEDULERS).index(scheduler) // 3 % 3]
    request = wish(scheduler=scheduler, guidance_scale=scale, negative_prompt="a dog", num_inference_steps=5)
    [latents] = final_latents(velocity_bundle, request)
    assert distance(latents, stock(velocity_bundle, request, output_type="latent")) <= ALONE


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 7.5])
def test_velocity_models_at_every_guidance(velocity_bundle: Bundle, guidance_scale: float) -> None:
    request = wish(scheduler="unipc", guidance_scale=guidance_scale, negative_prompt="a dog", num_inference_steps=5)
    [latents] = final_latents(velocity_bundle, request)
    assert distance(latents, stock(velocity_bundle, request, output_type="latent")) <= ALONE


@pytest.mark.parametrize("scheduler", [*SCHEDULERS][::3])
def test_sdxl_equals_its_stock_pipeline(xl_bundle: Bundle, scheduler: str) -> None:
    """Its conditioning, and what its pipeline rewrites in a scheduler: the arithmetic is that of the other models."""
    k = list(SCHEDULERS).index(scheduler)
    request = wish(
        scheduler=scheduler,
        num_inference_steps=5,
        guidance_scale=(1.0, 5.0, 7.5)[k % 3],
        negative_prompt="a dog" if k % 2 else "",
        width=(SIDE, 2 * SIDE)[k % 5 == 4],
    )
    [latents] = final_latents(xl_bundle, request)
    assert distance(latents, stock(xl_bundle, request, output_type="latent")) <= ALONE


@pytest.mark.parametrize("options", [{"thresholding": True}, {"skip_prk_steps": False}], ids=str)
def test_what_the_compiler_refuses_or_finds_hard_equals_the_stock_pipeline(
    epsilon_bundle: Bundle, options: dict[str, bool]
) -> None:
    """Dynamic thresholding is stepped as an object beside compiled solvers; PNDM's start fills all registers."""
    name = "DPMSolverMultistepScheduler" if "thresholding" in options else "PNDMScheduler"
    configured = for_name(epsilon_bundle.scheduler, name)
    bundle = dataclasses.replace(epsilon_bundle, scheduler=type(configured).from_config(configured.config, **options))
    requests = [
        wish("a", scheduler=name),
        wish("b", scheduler="euler_a", seed=8, num_inference_steps=3),
        wish("c", scheduler=name, seed=9, guidance_scale=1.0),
    ]
    together = final_latents(bundle, *requests)
    expected = [stock(bundle, request, output_type="latent") for request in requests]
    for latents in together:
        assert min(distance(latents, each) for each in expected) <= ALONE


@pytest.mark.parametrize("scheduler", ["euler_a", "ddim", "lcm"])
def test_pictures_equal_the_stock_pipelines(epsilon_bundle: Bundle, scheduler: str) -> None:
    request = wish(scheduler=scheduler, width=96, height=56)
    finished = run(Engine(epsilon_bundle), request)["a"]
    assert isinstance(finished, Finished)
    expected = np.asarray(stock(epsilon_bundle, request, output_type="pil"))
    [picture] = finished.pictures
    assert picture.shape == expected.shape == (56, 96, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - expected).max() <= 1


def test_image_k_is_drawn_from_seed_plus_k(epsilon_bundle: Bundle) -> None:
    both = final_latents(epsilon_bundle, wish(num_images=2, scheduler="euler_a", seed=40))
    for latents, seed in zip(both, (40, 41), strict=True):
        [alone] = final_latents(epsilon_bundle, wish(scheduler="euler_a", seed=seed))
        assert distance(latents, alone) <= IN_COMPANY


@pytest.mark.parametrize("name", ["epsilon_bundle", "velocity_bundle", "xl_bundle"])
def test_company_that_comes_and_goes_changes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    subject = wish("subject", scheduler="euler_a", num_inference_steps=12, seed=11)
    [alone] = final_latents(bundle, subject)
    recorder = Recorder(bundle)
    engine = Engine(dataclasses.replace(bundle, vae=recorder), seats=6)
    company = {
        0: [wish("c0", scheduler="dpmpp_2m", num_inference_steps=3, guidance_scale=1.0)],
        1: [wish("c1", scheduler="ddpm", num_inference_steps=9, num_images=2), subject],
        4: [wish("c2", scheduler="pndm", prompt="a blue star", guidance_scale=9.0)],
        6: [wish("c3", width=96, num_inference_steps=4), wish("c4", scheduler="heun", guidance_scale=0.0)],
        8: [wish("c5", num_images=5, num_inference_steps=2)],
    }
    events = []
    for step in range(12):
        for newcomer in company.get(step, []):
            engine.submit(newcomer)
        if step == 7:
            engine.cancel("c1")
        events += engine.step()
    last = last_events(events + drain(engine))
    assert isinstance(last["subject"], Finished)
    of_its_size = [latents for latents in recorder.latents if latents.shape == alone.shape]
    assert min(distance(latents, alone) for latents in of_its_size) <= IN_COMPANY


def test_every_solver_at_once_is_every_solver_alone(
    epsilon_bundle: Bundle, expected: Callable[[Request], torch.Tensor]
) -> None:
    """All schedulers in one batch that shrinks as they finish, guided and unguided, each against the stock pipeline."""
    together = final_latents(epsilon_bundle, *REQUESTS, seats=len(REQUESTS))
    assert len(together) == len(REQUESTS)
    for request in REQUESTS:
        assert min(distance(latents, expected(request)) for latents in together) <= IN_COMPANY, request.scheduler


def test_every_solver_at_once_in_sdxl(xl_bundle: Bundle) -> None:
    """Pooled text and sizes travel with their rows: sides, prompts, guidance and solvers all differ."""
    requests = [
        wish(
            name, scheduler=name, prompt=prompt, seed=k, guidance_scale=(1.0, 6.0)[k % 2], width=(SIDE, 96)[k % 3 == 0]
        )
        for k, (name, prompt) in enumerate(
            [("euler", "a red circle"), ("dpmpp_2m", "a blue star"), ("unipc", ""), ("euler_a", "two cats")]
        )
    ]
    together = final_latents(xl_bundle, *requests)
    for request in requests:
        expected = stock(xl_bundle, request, output_type="latent")
        of_its_size = [latents for latents in together if latents.shape == expected.shape]
        assert min(distance(latents, expected) for latents in of_its_size) <= IN_COMPANY, request.scheduler


def test_guided_and_unguided_rows_do_not_mix_up(epsilon_bundle: Bundle) -> None:
    requests = [wish(str(scale), guidance_scale=scale) for scale in (1.0, 9.0, 0.0, 3.0)]
    together = final_latents(epsilon_bundle, *requests)
    for request, latents in zip(requests, together, strict=True):
        assert distance(latents, stock(epsilon_bundle, request, output_type="latent")) <= IN_COMPANY


def test_the_global_generator_is_left_alone(epsilon_bundle: Bundle) -> None:
    before = torch.random.get_rng_state()
    run(Engine(epsilon_bundle), wish(scheduler="euler_a"))
    assert works(epsilon_bundle.scheduler, "euler_a")
    assert torch.equal(before, torch.random.get_rng_state())
