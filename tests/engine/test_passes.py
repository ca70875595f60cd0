"""A family of two passes: a small picture first, whose latents are what the second pass starts from, and colour its
words. The engine has no such family yet; what it does with one is held against two calls of the stock pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.engine.driving import SIDE, Recorder, distance, drain, last_events, prepared, run, scripted, wish
from tests.engine.test_equation import IN_COMPANY
from worker.engine.engine import Engine
from worker.engine.errors import EngineError
from worker.engine.events import EngineEvent, Failed, Finished, Preview, Progress
from worker.engine.family import Asked, Prepared
from worker.engine.passes import Before, Begun, Pass
from worker.engine.request import Request
from worker.engine.rows import Rows
from worker.engine.solver import Schedule, SolverFactory
from worker.families.latent_diffusion import CONTEXT
from worker.families.stable_diffusion import StableDiffusion
from worker.models.bundle import Bundle, stock_pipeline
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import step_options

FIRST = "euler_a", 3
"""The scheduler of every first pass, and its steps. It draws, so that the second pass has to go on with the draws."""

UNLUCKY = 13
"""A seed whose second pass cannot be made."""


def enlarged(latents: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(latents[None], scale_factor=2)[0]


def coloured(context: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return context * (1 + latents.mean() / 10)


class Enlarging(StableDiffusion):
    def schedules(self, request: Request) -> list[Schedule]:
        return [self._schedulers.schedule(*FIRST), *super().schedules(request)]

    def prepare(self, asked: Sequence[Asked]) -> list[Prepared | EngineError]:
        whole = super().prepare([dataclasses.replace(each, solvers=each.solvers[1:]) for each in asked])
        return [
            Prepared(self._both(each.passes[0], own.solvers[0]), each.warnings) if isinstance(each, Prepared) else each
            for each, own in zip(whole, asked, strict=True)
        ]

    def _both(self, large: Pass, solver: SolverFactory) -> list[Pass]:
        channels, height, width = large.latent_shape
        small = dataclasses.replace(large, solver=solver, latent_shape=(channels, height // 2, width // 2))
        return [small, dataclasses.replace(large, complete=self._completed)]

    def _completed(self, large: Pass, before: Before) -> Pass:
        if before.generator.initial_seed() == UNLUCKY:
            raise RuntimeError("no second pass for this one")
        (latents,) = before.ended
        both = large.rows.conditional, large.rows.unconditional
        rows = Rows(*({CONTEXT: coloured(row[CONTEXT], latents)} for row in both))
        start = enlarged(latents).cpu()
        return dataclasses.replace(
            large, rows=rows, start=lambda shape, generator, solver: Begun(start * solver.table.init_noise_sigma)
        )


def expected(bundle: Bundle, request: Request) -> torch.Tensor:
    """Latents of two calls of the stock pipeline that share a generator."""
    generator, rows = torch.Generator().manual_seed(request.seed), prepared(bundle, request)[0].passes[0].rows
    contexts = [rows.conditional[CONTEXT], rows.unconditional[CONTEXT]]

    def call(name: str, steps: int, side: int, contexts: list[torch.Tensor], **options: Any) -> torch.Tensor:
        with quiet_libraries():
            return stock_pipeline(bundle, name)(
                prompt_embeds=contexts[0][None], negative_prompt_embeds=contexts[1][None], width=side, height=side,
                num_inference_steps=steps, guidance_scale=request.guidance_scale, generator=generator,
                output_type="latent", eta=step_options(name)["eta"], **options,
            ).images[0]  # fmt: skip

    small = call(*FIRST, SIDE // 2, contexts)
    colours = [coloured(context, small) for context in contexts]
    start = enlarged(small)[None]
    return call(request.scheduler, request.num_inference_steps, SIDE, colours, latents=start)


def test_passes_follow_each_other_in_any_company_as_two_stock_calls_do(epsilon_bundle: Bundle) -> None:
    recorder = Recorder(epsilon_bundle)
    engine = Engine(Enlarging(dataclasses.replace(epsilon_bundle, vae=recorder)), seats=4)
    requests = [
        wish("a", scheduler="euler_a", num_inference_steps=5, seed=1),
        wish("b", scheduler="ddim", num_inference_steps=2, seed=2, guidance_scale=6.0),
        wish("c", scheduler="dpmpp_2m", num_inference_steps=4, seed=3, prompt="a blue star"),
    ]
    events: list[EngineEvent] = []
    for request in requests:
        engine.submit(request)
        events += engine.step()
    last = last_events(events + drain(engine))
    assert all(isinstance(event, Finished) for event in last.values()), last
    for request in requests:
        by_hand = expected(epsilon_bundle, request)
        assert min(distance(latents, by_hand) for latents in recorder.latents) <= IN_COMPANY, request.id
    assert engine.free_seats == engine.seats


def test_progress_and_previews_count_all_passes(epsilon_bundle: Bundle) -> None:
    engine = Engine(Enlarging(epsilon_bundle))
    engine.submit(wish(num_inference_steps=4, preview_every=2))
    events = drain(engine)
    assert [(event.step, event.steps) for event in events if isinstance(event, Progress)] == [
        (step, 7) for step in range(1, 8)
    ]
    previews = [(event.step, event.picture.shape[1]) for event in events if isinstance(event, Preview)]
    assert previews == [(4, SIDE // 2), (6, SIDE // 2)], "the first pass's latents are of no picture that is wanted"
    assert events[-1].steps == 7


def test_who_starts_over_starts_with_the_first_pass(epsilon_bundle: Bundle) -> None:
    """NaN in the second pass: the latents it started from may have been the cause."""
    undisturbed = run(Engine(Enlarging(epsilon_bundle)), wish(scheduler="euler_a", num_inference_steps=2))["a"]
    widths: list[int] = []

    def poisoned_once(call: int, rows: torch.Tensor) -> None:
        widths.append(rows.shape[-1])
        if call == 4:
            rows.fill_(float("nan"))

    bundle, _ = scripted(epsilon_bundle, poisoned_once)
    finished = run(Engine(Enlarging(bundle)), wish(scheduler="euler_a", num_inference_steps=2))["a"]
    small, large = SIDE // 8, SIDE // 4
    assert widths == [small] * 3 + [large] + [small] * 3 + [large] * 2
    assert (finished.pictures[0] == undisturbed.pictures[0]).all()
    assert finished.images[0].is_rescued


@pytest.mark.parametrize("num_images", [1, 2])
def test_a_pass_that_cannot_begin_ends_its_own_request(epsilon_bundle: Bundle, num_images: int) -> None:
    engine = Engine(Enlarging(epsilon_bundle), seats=3)
    last = run(engine, wish("no", seed=UNLUCKY, num_images=num_images), wish("well", num_inference_steps=2))
    assert isinstance(last["no"], Failed)
    assert "next pass" in last["no"].error.detail
    assert isinstance(last["well"], Finished)
    assert engine.free_seats == engine.seats
