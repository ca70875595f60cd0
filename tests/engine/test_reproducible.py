"""A reproducible picture is the same to the last bit, whoever else is drawn at the time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.driving import SIDE, drain, engine_of, last_events, run, scripted, wish
from worker.engine.events import Finished
from worker.engine.lane import REPRODUCIBLE_ROWS
from worker.models.bundle import Bundle

SUBJECT = {"prompt": "a yellow star", "negative_prompt": "a dog", "seed": 5, "reproducible": True}

companions = st.fixed_dictionaries(
    {
        "num_inference_steps": st.integers(1, 6),
        "num_images": st.integers(1, 3),
        "guidance_scale": st.sampled_from([1.0, 4.0]),
        "scheduler": st.sampled_from(["ddim", "euler_a", "unipc"]),
        "prompt": st.sampled_from(["a yellow star", "a dog", "a very long story about a red panda"]),
        "width": st.sampled_from([SIDE, SIDE // 2]),
        "reproducible": st.booleans(),
        "seed": st.integers(0, 99),
    }
)


@pytest.fixture(scope="module")
def alone(epsilon_bundle: Bundle) -> dict[tuple[str, float], np.ndarray]:
    return {
        (scheduler, scale): picture(run(engine_of(epsilon_bundle), subject(scheduler, scale))["subject"])
        for scheduler in ("euler_a", "dpmpp_2m")
        for scale in (1.0, 6.0)
    }


def subject(scheduler: str, guidance_scale: float) -> Any:
    return wish("subject", scheduler=scheduler, guidance_scale=guidance_scale, **SUBJECT)


def picture(event: object) -> np.ndarray:
    assert isinstance(event, Finished), event
    return event.pictures[0]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheduler=st.sampled_from(["euler_a", "dpmpp_2m"]),
    scale=st.sampled_from([1.0, 6.0]),
    company=st.lists(st.tuples(st.integers(0, 8), companions), max_size=4),
    arrival=st.integers(0, 4),
)
def test_the_same_bits_in_any_company(
    epsilon_bundle: Bundle,
    alone: dict[tuple[str, float], np.ndarray],
    scheduler: str,
    scale: float,
    company: list[tuple[int, dict[str, Any]]],
    arrival: int,
) -> None:
    engine = engine_of(epsilon_bundle, seats=6)
    events = []
    for step in range(9):
        for k, (when, wishes) in enumerate(company):
            if when == step:
                engine.submit(wish(f"c{k}", **wishes))
        if step == arrival:
            engine.submit(subject(scheduler, scale))
        events += engine.step()
    last = last_events(events + drain(engine))
    assert np.array_equal(picture(last["subject"]), alone[scheduler, scale])


def test_latents_too_are_the_same_bits(epsilon_bundle: Bundle) -> None:
    """Eight bits a pixel could hide a difference."""
    seen: list[torch.Tensor] = []

    class Keeping:
        config, dtype = epsilon_bundle.vae.config, epsilon_bundle.dtype

        def decode(self, z: torch.Tensor, **options: Any) -> Any:
            seen.append(z.clone())
            return epsilon_bundle.vae.decode(z, **options)

    bundle = dataclasses.replace(epsilon_bundle, vae=Keeping())
    run(engine_of(bundle), subject("euler_a", 6.0))
    run(
        engine_of(bundle), *(wish(str(k), seed=k, num_inference_steps=3 + k) for k in range(5)), subject("euler_a", 6.0)
    )
    assert len(seen[0]) == 1
    assert any(torch.equal(seen[0], z) for z in seen[1:])


def test_every_call_has_the_same_rows(epsilon_bundle: Bundle) -> None:
    bundle, unet = scripted(epsilon_bundle, lambda call, rows: None)
    requests = [subject("euler_a", 1.0), wish("b", reproducible=True), wish("c", reproducible=True, guidance_scale=1.0)]
    run(engine_of(bundle), *requests)
    assert set(unet.batches) == {REPRODUCIBLE_ROWS}


def test_every_call_is_for_one_sample(epsilon_bundle: Bundle) -> None:
    """On a GPU a row's bits depend on its place in the batch, and the place on the company."""
    engine, batches = engine_of(epsilon_bundle), set()
    for k in range(3):
        engine.submit(wish(str(k), seed=k, reproducible=True, guidance_scale=1.0))
    while not engine.idle:
        engine.step()
        batches.add(engine.last_batch)
    assert batches - {0} == {1}
