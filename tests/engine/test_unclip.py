"""unCLIP models in the step engine: prior and decoder as passes, held against diffusers' own pipelines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from app.contract.messages.unclip import Prior
from tests.engine.driving import Recorder, distance, drain, engine_of, last_events, wish
from tests.engine.tiny_models import save_tiny_unclip
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Finished
from worker.engine.request import Request
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import for_name

CLOSE = 5e-5
"""Of the latents' standard deviation."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet_libraries():
        return save_tiny_unclip(tmp_path_factory.mktemp("models") / "tiny-unclip")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    with quiet_libraries():
        return load(folder)


def in_company(bundle: Bundle, *requests: Request, **options: Any) -> tuple[list[torch.Tensor], list[EngineEvent]]:
    """Each joins one step after the other. The latents that were decoded, and all events."""
    recorder = Recorder(bundle)
    engine: Engine = engine_of(dataclasses.replace(bundle, vae=recorder), seats=8, **options)
    events: list[EngineEvent] = []
    for request in requests:
        engine.submit(request)
        events += engine.step()
    events += drain(engine)
    last = last_events(events)
    assert all(isinstance(event, Finished) for event in last.values()), last
    return recorder.latents, events


def nearest(latents: list[torch.Tensor], by_hand: torch.Tensor) -> float:
    return min(distance(each, by_hand) for each in latents)


def stock(folder: Path, request: Request) -> torch.Tensor:
    """Latents of diffusers' own pipeline, loaded by itself."""
    said = request.prior or Prior()
    with quiet_libraries():
        pipeline = diffusers.StableUnCLIPPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = for_name(pipeline.scheduler, request.scheduler)
        return pipeline(
            request.prompt, negative_prompt=request.negative_prompt, width=request.width, height=request.height,
            num_inference_steps=request.num_inference_steps, guidance_scale=request.guidance_scale,
            noise_level=request.noise_level, generator=torch.Generator().manual_seed(request.seed),
            prior_num_inference_steps=said.num_inference_steps or 25,
            prior_guidance_scale=4.0 if said.guidance_scale is None else said.guidance_scale,
            output_type="latent",
        ).images[0]  # fmt: skip


UNEQUAL = [
    wish("a", prior=Prior(num_inference_steps=4), noise_level=0, seed=1),
    wish("b", prior=Prior(num_inference_steps=7, guidance_scale=1.0), noise_level=300, seed=2, num_inference_steps=3),
    wish("c", prior=Prior(num_inference_steps=3, guidance_scale=2.0), prompt="a blue star", negative_prompt="red",
         seed=3, scheduler="euler_a", guidance_scale=1.0, noise_level=50),
]  # fmt: skip


def test_text_to_image_in_company_is_what_the_stock_pipeline_draws(bundle: Bundle, folder: Path) -> None:
    latents, _ = in_company(bundle, *UNEQUAL)
    for request in UNEQUAL:
        assert nearest(latents, stock(folder, request)) <= CLOSE, request.id
