"""The host runs ahead of its device, as on a GPU: pictures are taken a step later, and nothing else is different.

The device is a CPU, so that there is something in the pictures; only the engine does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.driving import StoppedClock, drain, engine_of, last_events, scripted, wish
from worker.engine.denoise import Finite
from worker.engine.engine import Engine
from worker.engine.events import EngineEvent, Finished, Progress, Stopped, Timings
from worker.engine.request import Request
from worker.models.bundle import Bundle


def running_ahead(bundle: Bundle, **options: Any) -> Engine:
    engine = engine_of(bundle, **options)
    engine._runs_ahead = True
    return engine


def by_step(engine: Engine, requests: Sequence[Request]) -> list[list[EngineEvent]]:
    for request in requests:
        engine.submit(request)
    steps = []
    while not engine.idle:
        steps.append(engine.step())
    return steps


def test_pictures_come_a_step_later_and_are_the_same(epsilon_bundle: Bundle) -> None:
    requests = [wish("a", num_inference_steps=3, num_images=2), wish("b", seed=9, scheduler="euler_a")]
    at_once, later = (by_step(make(epsilon_bundle), requests) for make in (engine_of, running_ahead))
    assert len(later) == len(at_once) + 1

    def ends(steps: list[list[EngineEvent]]) -> dict[str, int]:
        return {event.request_id: k for k, step in enumerate(steps) for event in step if isinstance(event, Finished)}

    assert ends(later) == {id: step + 1 for id, step in ends(at_once).items()}
    (one, other) = (last_events([event for step in steps for event in step]) for steps in (at_once, later))
    for id in "ab":
        assert isinstance(one[id], Finished)
        assert isinstance(other[id], Finished)
        assert np.array_equal(one[id].pictures, other[id].pictures)


class PaintingVae:
    """Paints all pictures of each call in the next of the `values`, and the last one for ever."""

    def __init__(self, bundle: Bundle, *values: float) -> None:
        self.config, self.dtype, self._values = bundle.vae.config, bundle.dtype, list(values)
        self.batches: list[int] = []

    def decode(self, z: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        self.batches.append(len(z))
        value = self._values.pop(0) if len(self._values) > 1 else self._values[0]
        return (torch.full((len(z), 3, 4 * z.shape[-2], 4 * z.shape[-1]), value),)


def test_a_picture_that_is_none_is_drawn_again(epsilon_bundle: Bundle) -> None:
    bundle = dataclasses.replace(epsilon_bundle, vae=PaintingVae(epsilon_bundle, float("nan"), 0.5))
    engine = running_ahead(bundle)
    engine.submit(wish(num_inference_steps=2))
    finished = last_events(drain(engine))["a"]
    assert isinstance(finished, Finished)
    assert [image.is_rescued for image in finished.images] == [True]


def test_latents_that_are_none_are_drawn_again_even_if_their_picture_looks_well(epsilon_bundle: Bundle) -> None:
    """Their flag is read when the picture is, whatever the decoder makes of NaN."""

    def spoil_the_last(call: int, rows: torch.Tensor) -> None:
        if call == 3:
            rows.fill_(float("nan"))

    bundle, _ = scripted(epsilon_bundle, spoil_the_last)
    engine = running_ahead(dataclasses.replace(bundle, vae=PaintingVae(epsilon_bundle, 0.5)))
    engine.submit(wish(num_inference_steps=3))
    finished = last_events(drain(engine))["a"]
    assert isinstance(finished, Finished)
    assert [image.is_rescued for image in finished.images] == [True]


def test_who_is_canceled_while_the_picture_is_on_its_way_gets_none(epsilon_bundle: Bundle) -> None:
    engine = running_ahead(epsilon_bundle, seats=2)
    engine.submit(wish(num_inference_steps=1))
    assert engine.step()[-1] == Progress("a", 1, 1)
    assert engine.free_seats == 1, "it is still on its seat"
    engine.cancel("a")
    assert engine.step() == [Stopped("a")]
    assert (engine.idle, engine.free_seats) == (True, 2)
    engine.submit(wish("b", num_inference_steps=1))
    assert isinstance(last_events(drain(engine))["b"], Finished)


def test_a_job_ends_with_the_last_of_its_pictures(epsilon_bundle: Bundle) -> None:
    vae = PaintingVae(epsilon_bundle, 0.0)
    engine = running_ahead(dataclasses.replace(epsilon_bundle, vae=vae))
    steps = by_step(engine, [wish(num_images=6, num_inference_steps=1)])
    assert vae.batches == [4, 2]
    assert [[type(event) for event in step] for step in steps[1:]] == [[], [Finished]]
    assert len(last_events(steps[-1])["a"].pictures) == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("make", [engine_of, running_ahead])
def test_the_wait_for_a_step_is_time_of_denoising(
    epsilon_bundle: Bundle, make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that takes a second until it has answered a question, about a step or about a picture."""
    clock, read = StoppedClock(), Finite.__getitem__

    def slow(finite: Finite, k: int) -> bool:
        clock.now += 1.0
        return read(finite, k)

    monkeypatch.setattr(Finite, "__getitem__", slow)
    engine = make(epsilon_bundle, clock=clock)
    engine.submit(wish(num_inference_steps=3))
    finished = last_events(drain(engine))["a"]
    assert isinstance(finished, Finished)
    assert finished.timings == Timings(encode=0.0, denoise=3.0, decode=1.0, wall=4.0)
