"""guidance_rescale: a standard deviation for each sample inside the step, and nothing for those who do not ask."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from tests.engine.driving import distance, engine_of, final_latents, run, stock, wish
from tests.engine.test_denoise import SHAPE, Echo, arguments, filled, step_input
from tests.engine.test_equation import IN_COMPANY
from worker.engine.compile import compile_table
from worker.engine.denoise import StaticStep
from worker.engine.events import Finished
from worker.engine.guidance import Guidance, rescaling
from worker.models.bundle import Bundle
from worker.models.schedulers import for_name

REQUESTS = [
    wish("a", scheduler="euler", guidance_rescale=0.7, guidance_scale=7.5),
    wish("b", scheduler="dpmpp_2m", guidance_scale=7.5, seed=8, num_inference_steps=5),
    wish("c", scheduler="euler_a", guidance_rescale=1.0, guidance_scale=3.0, seed=9, negative_prompt="a dog"),
    wish("d", scheduler="heun", guidance_rescale=0.5, guidance_scale=1.0, seed=1, num_inference_steps=4),
]


@pytest.mark.parametrize("name", ["epsilon_bundle", "velocity_bundle", "xl_bundle"])
def test_in_company_it_is_the_stock_pipelines(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    together = final_latents(bundle, *REQUESTS)
    for asked in REQUESTS:
        expected = stock(bundle, asked, output_type="latent")
        assert min(distance(latents, expected) for latents in together) <= IN_COMPANY, asked.id


def test_a_stepped_scheduler_gets_the_rescaled_output(epsilon_bundle: Bundle) -> None:
    configured = for_name(epsilon_bundle.scheduler, "DPMSolverMultistepScheduler")
    scheduler = type(configured).from_config(configured.config, thresholding=True)
    bundle = dataclasses.replace(epsilon_bundle, scheduler=scheduler)
    asked = wish(scheduler="DPMSolverMultistepScheduler", guidance_rescale=0.7)
    [latents] = final_latents(bundle, asked)
    assert distance(latents, stock(bundle, asked, output_type="latent")) <= IN_COMPANY


def test_it_reaches_the_picture(epsilon_bundle: Bundle) -> None:
    [rescaled] = final_latents(epsilon_bundle, REQUESTS[0])
    [plain] = final_latents(epsilon_bundle, REQUESTS[0].model_copy(update={"guidance_rescale": 0.0}))
    assert distance(rescaled, plain) > 25 * IN_COMPANY


@pytest.mark.parametrize("value", [0.0, 1e30, math.inf, math.nan])
def test_who_does_not_ask_is_multiplied_by_one_whatever_stands_there(value: float) -> None:
    c, u = torch.full((2, *SHAPE), value), torch.full((2, *SHAPE), -value)
    k = rescaling(c, u, torch.tensor([7.5, 0.0]).view(2, 1, 1, 1), torch.zeros(2, 1, 1, 1))
    assert k.flatten().tolist() == [1.0, 1.0]


class Weighing(Echo):
    """Conditional and unconditional rows differ."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Any) -> torch.Tensor:
        return x.flip(1) * rows["weights"]


def test_no_bit_of_a_neighbour_depends_on_who_asks(epsilon_bundle: Bundle) -> None:
    table = compile_table(for_name(epsilon_bundle.scheduler, "dpmpp_2m"), 5)

    def neighbour(rescale: float) -> tuple[torch.Tensor, torch.Tensor]:
        weights = {"weights": torch.Size(SHAPE)}
        step = filled(StaticStep(Weighing(), seats=2, latent_shape=SHAPE, conditioning=weights))  # type: ignore[arg-type]
        asking = dataclasses.replace(step_input(table, 1), guidance=Guidance(scale=5.0, rescale=rescale))
        step(*arguments([asking, step_input(table, 2)], rows=4, samples=2))
        return step.state[1].clone(), step.state[2].clone()

    (asked, beside), (did_not, beside_too) = neighbour(0.7), neighbour(0.0)
    assert not torch.equal(asked, did_not)
    assert torch.equal(beside, beside_too)


def test_without_guidance_it_is_said_to_be_idle(epsilon_bundle: Bundle) -> None:
    finished = run(engine_of(epsilon_bundle), wish(guidance_scale=1.0, guidance_rescale=0.5, num_inference_steps=1))
    assert isinstance(finished["a"], Finished)
    assert finished["a"].warnings == ["guidance_rescale had no effect: it needs a guidance_scale above 1."]
