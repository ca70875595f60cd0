"""Latent consistency models: their guidance is an input of the UNet, and every sample takes one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.driving import Recorder, distance, drain, final_latents, last_events, run, scripted, stock, wish
from tests.engine.driving import engine_of as Engine
from tests.engine.test_equation import ALONE, IN_COMPANY
from tests.engine.tiny_models import save_tiny_lcm
from worker.engine.engine import Engine as PlainEngine
from worker.engine.errors import EngineError
from worker.engine.events import Finished
from worker.engine.family import Asked, Family, Inputs, Prepared
from worker.engine.request import Request
from worker.engine.solver import Schedule
from worker.families.choose import family_of
from worker.models.announced import describe
from worker.models.bundle import Bundle, ModelError, load
from worker.models.quiet import quiet_libraries

JOBS = [
    wish("a", scheduler="lcm", num_inference_steps=4, guidance_scale=8.5, seed=3),
    wish("b", scheduler="LCMScheduler", num_inference_steps=7, guidance_scale=1.0, seed=11, prompt="a blue star"),
    wish("c", scheduler="lcm", num_inference_steps=2, guidance_scale=0.0, seed=5, prompt=""),
]


def test_three_unequal_jobs_in_one_batch_are_the_stock_pipelines_each(lcm_bundle: Bundle) -> None:
    together = final_latents(lcm_bundle, *JOBS)
    assert len(together) == len(JOBS)
    for request in JOBS:
        expected = stock(lcm_bundle, request, output_type="latent")
        [alone] = final_latents(lcm_bundle, request)
        assert distance(alone, expected) <= ALONE
        assert min(distance(latents, expected) for latents in together) <= IN_COMPANY


def test_guidance_reaches_the_picture(lcm_bundle: Bundle) -> None:
    """Were it dropped, everything else here might still hold."""
    low, high = (final_latents(lcm_bundle, JOBS[0].model_copy(update={"guidance_scale": w}))[0] for w in (2.0, 8.5))
    assert distance(low, high) > 10 * IN_COMPANY


class TwoModels:
    """A Family of two models: LCM's schedulers are drawn by the first, all others by the second."""

    def __init__(self, first: Family, second: Family) -> None:
        self._both = first, second
        self.device, self.autoencoder, self.native = first.device, first.autoencoder, first.native
        self.weights_bytes = first.weights_bytes + second.weights_bytes
        self.later_bytes = 0.0

    def _of(self, request: Request) -> Family:
        return self._both[0 if "lcm" in request.scheduler.lower() else 1]

    def schedules(self, request: Request) -> Sequence[Schedule]:
        return self._of(request).schedules(request)

    def inputs(self, request: Request) -> Inputs:
        return self._of(request).inputs(request)

    def bring(self, request: Request) -> Sequence[Future[Any]]:
        return []

    def close(self, request: Request) -> None:
        pass

    def prepare(self, asked: Sequence[Asked]) -> Sequence[Prepared | EngineError]:
        return [self._of(each.request).prepare([each])[0] for each in asked]


def test_text_to_image_neighbours_and_they_change_nothing_of_each_other(
    lcm_bundle: Bundle, epsilon_bundle: Bundle
) -> None:
    """In one engine, begun at different steps, each against the stock pipeline of its own model."""
    recorder = Recorder(lcm_bundle)
    lcm = family_of(dataclasses.replace(lcm_bundle, vae=recorder))
    engine = PlainEngine(TwoModels(lcm, family_of(epsilon_bundle)))
    neighbours = [
        wish("d", scheduler="euler_a", num_inference_steps=5, guidance_scale=7.5, negative_prompt="a dog"),
        wish("e", scheduler="dpmpp_2m", num_inference_steps=9, guidance_scale=1.0, seed=1),
    ]
    events = []
    for request in (JOBS[0], neighbours[0], JOBS[1], neighbours[1], JOBS[2]):
        engine.submit(request)
        events += engine.step()
    last = last_events(events + drain(engine))
    assert all(isinstance(event, Finished) for event in last.values())
    for request in (*JOBS, *neighbours):
        expected = stock(lcm_bundle if request in JOBS else epsilon_bundle, request, output_type="latent")
        assert min(distance(latents, expected) for latents in recorder.latents) <= IN_COMPANY, request.id


def test_a_sample_takes_one_row_and_no_negative_prompt(lcm_bundle: Bundle) -> None:
    bundle, unet = scripted(lcm_bundle, lambda call, rows: None)
    finished = run(Engine(bundle), wish(scheduler="lcm", num_inference_steps=3, negative_prompt="a dog"))["a"]
    assert isinstance(finished, Finished)
    assert unet.batches == [1, 1, 1]
    [warning] = finished.warnings
    assert warning.startswith("The negative prompt had no effect: this model")


def test_what_the_model_is_announced_with(lcm_bundle: Bundle) -> None:
    card = describe(lcm_bundle, seats=1)
    assert set(card.schedulers) == {"lcm", "LCMScheduler"}
    assert (card.num_inference_steps, card.guidance_scale, card.scheduler) == (4, 8.5, "LCMScheduler")
    assert card.scheduler_max_steps["lcm"] == 50, "as many as it was distilled from"
    assert not card.classifier_free_guidance, "its guidance is part of the one row"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet_libraries():
        return save_tiny_lcm(tmp_path_factory.mktemp("models") / "to-spoil")


@pytest.mark.parametrize(
    ("file", "said", "fault"),
    [
        ("unet/config.json", '"time_cond_proj_dim": null', "time_cond_proj_dim=None"),
        ("model_index.json", '"DDIMScheduler"', "is a diffusers.DDIMScheduler; supported: LCMScheduler"),
        ("darkroom.json", '{"scheduler": "ddim"}', "default scheduler ddim does not work"),
    ],
)
def test_a_folder_without_what_makes_it_one_is_refused(folder: Path, file: str, said: str, fault: str) -> None:
    path = folder / file
    before = path.read_text() if path.exists() else None
    text = said if before is None else before.replace('"time_cond_proj_dim": 24', said).replace('"LCMScheduler"', said)
    assert text != before
    path.write_text(text)
    try:
        with pytest.raises(ModelError, match=fault):
            load(folder)
    finally:
        path.unlink() if before is None else path.write_text(before)


def test_rows_of_a_model_of_half_precision_are_of_its_type(folder: Path) -> None:
    bundle = load(folder, dtype=torch.bfloat16)
    assert dict(family_of(bundle).native.conditioning)["timestep_cond"] == torch.Size((24,))
    assert len(final_latents(bundle, JOBS[0])) == 1
