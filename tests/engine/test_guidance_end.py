"""guidance_end: the unconditional row leaves, and the conditional one goes on as if it had always been alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.engine.driving import distance, engine_of, final_latents, prepared, run, scripted, stock, stock_call, wish
from tests.engine.test_equation import IN_COMPANY
from worker.engine.events import Finished
from worker.engine.guidance import Guidance
from worker.engine.request import Request
from worker.models.bundle import Bundle

ENDING = [
    wish("a", guidance_end=0.5),
    wish("b", guidance_end=0.8, scheduler="dpmpp_2m", seed=8, num_inference_steps=5),
    wish("c", guidance_end=0.3, scheduler="euler_a", guidance_rescale=0.7, seed=9, num_inference_steps=7),
    wish("d", scheduler="euler", seed=1, num_inference_steps=4),
]


def guided(request: Request) -> int:
    """Evaluations with two rows, of those schedulers that make one in each step."""
    steps = request.num_inference_steps
    return sum((i + 1) / steps <= request.guidance_end for i in range(steps))


def stock_until(bundle: Bundle, request: Request) -> Any:
    """The stock pipeline, told after a step that guidance is over: as diffusers' documentation has it of callbacks."""

    def end(pipeline: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if step + 1 == guided(request) < request.num_inference_steps:
            pipeline._guidance_scale = 0.0
            return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}
        return tensors

    more = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    return stock_call(bundle, request, output_type="latent", **more).images[0]


@pytest.mark.parametrize("name", ["epsilon_bundle", "velocity_bundle"])
def test_in_company_it_is_the_stock_pipeline_told_by_a_callback(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    together = final_latents(bundle, *ENDING)
    for asked in ENDING:
        expected = stock_until(bundle, asked)
        assert min(distance(latents, expected) for latents in together) <= IN_COMPANY, asked.id


def test_it_reaches_the_picture_of_every_part(xl_bundle: Bundle) -> None:
    latents = [final_latents(xl_bundle, wish(guidance_end=end))[0] for end in (1.0, 0.5, 0.34, 0.01)]
    assert all(distance(one, other) > 25 * IN_COMPANY for one, other in pairwise(latents))
    assert distance(latents[-1], stock(xl_bundle, wish(guidance_scale=1.0), output_type="latent")) <= IN_COMPANY


def test_to_the_end_no_bit_changes(epsilon_bundle: Bundle) -> None:
    """Also not of who says so beside others that end sooner."""
    [plain] = final_latents(epsilon_bundle, wish(reproducible=True))
    [said] = final_latents(epsilon_bundle, wish(reproducible=True, guidance_end=1.0))
    both = final_latents(epsilon_bundle, wish(reproducible=True, guidance_end=1.0), ENDING[1])
    assert torch.equal(plain, said)
    assert any(torch.equal(plain, latents) for latents in both)


def test_a_reproducible_picture_ends_at_the_same_evaluation_in_any_company(epsilon_bundle: Bundle) -> None:
    asked = wish(reproducible=True, guidance_end=0.5)
    [alone] = final_latents(epsilon_bundle, asked)
    assert any(torch.equal(alone, latents) for latents in final_latents(epsilon_bundle, asked, *ENDING[1:]))


@pytest.mark.parametrize(("end", "rows"), [(1.0, {2: 6}), (0.5, {2: 3, 1: 3}), (0.99, {2: 5, 1: 1}), (0.1, {1: 6})])
def test_the_row_leaves_the_batch(epsilon_bundle: Bundle, end: float, rows: dict[int, int]) -> None:
    bundle, unet = scripted(epsilon_bundle, lambda call, rows: None)
    assert isinstance(run(engine_of(bundle), wish(guidance_end=end))["a"], Finished)
    assert Counter(unet.batches) == rows


def test_a_scheduler_of_two_evaluations_a_step_counts_evaluations(epsilon_bundle: Bundle) -> None:
    bundle, unet = scripted(epsilon_bundle, lambda call, rows: None)
    run(engine_of(bundle), wish(scheduler="heun", num_inference_steps=4, guidance_end=0.5))
    assert unet.batches == [2, 2, 2, 1, 1, 1, 1]


def test_the_rounding_of_decimals_is_what_it_looks_like() -> None:
    for hundredths in range(1, 101):
        guidance = Guidance(end=hundredths / 100)
        assert sum(guidance.is_asked(i, 100) for i in range(100)) == hundredths


@pytest.mark.parametrize(
    ("changes", "names", "why"),
    [
        ({"guidance_scale": 1.0, "guidance_end": 0.5}, ["guidance_end"], "it needs a guidance_scale above 1"),
        (
            {"guidance_rescale": 0.5, "guidance_end": 0.1, "negative_prompt": "a dog"},
            ["The negative prompt", "guidance_rescale", "guidance_scale"],
            "with a guidance_end of 0.1, none of 6 evaluations is guided",
        ),
        ({"guidance_rescale": 0.5, "guidance_end": 0.2, "negative_prompt": "a dog"}, [], ""),
    ],
)
def test_where_nothing_is_guided_it_is_said_what_is_idle(
    epsilon_bundle: Bundle, changes: dict[str, Any], names: list[str], why: str
) -> None:
    [told] = prepared(epsilon_bundle, wish(**changes))
    assert told.warnings == [f"{name} had no effect: {why}." for name in names]  # type: ignore[union-attr]
