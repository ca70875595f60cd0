"""What strikes one sample strikes nobody else: its neighbours' latents are the same to the last bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.driving import Recorder, drain, engine_of, last_events, prepared, run, scripted, wish
from worker.engine.errors import NumericalError
from worker.engine.events import Failed, Finished, Progress
from worker.engine.request import Request
from worker.families.latent_diffusion import CONTEXT
from worker.models.bundle import Bundle

ILL = "a poisoned apple"


class Poison:
    """A UNet that answers NaN to every row about the poisoned apple, in the calls `when` says yes to.

    `only_half`: not in float32, as where a half-precision model overflows.
    """

    def __init__(self, bundle: Bundle, when: Any = lambda call: True, *, only_half: bool = False) -> None:
        self.config = bundle.unet.config
        self._unet, self._when, self._only_half = bundle.unet, when, only_half
        self._context = prepared(bundle, wish(prompt=ILL))[0].passes[0].rows.conditional[CONTEXT]
        self.batches: list[int] = []

    def __call__(self, x: torch.Tensor, *args: Any, encoder_hidden_states: torch.Tensor, **options: Any) -> Any:
        self.batches.append(len(x))
        output = self._unet(x, *args, encoder_hidden_states=encoder_hidden_states, **options)[0].clone()
        poisoned = torch.tensor([bool(torch.equal(row, self._context)) for row in encoder_hidden_states.float()])
        if self._when(len(self.batches)) and not (self._only_half and x.dtype == torch.float32):
            output[poisoned] = float("nan")
        return (output,)

    def float(self) -> Poison:
        """Called on a copy."""
        self._unet.float()
        return self


def latents_of(bundle: Bundle, engine_seats: int, *requests: Request, cancel: tuple[str, int] | None = None) -> Any:
    """All latents that reach the VAE and the last events. `cancel` calls a request off before that step."""
    recorder = Recorder(bundle)
    engine = engine_of(dataclasses.replace(bundle, vae=recorder), seats=engine_seats)
    for request in requests:
        engine.submit(request)
    events = []
    for step in range(200):
        if cancel and step == cancel[1]:
            engine.cancel(cancel[0])
        events += engine.step()
        if engine.idle:
            break
    return recorder.latents, last_events(events)


@pytest.mark.parametrize("reproducible", [False, True])
def test_nan_ends_one_request_and_its_neighbours_do_not_change_by_one_bit(
    epsilon_bundle: Bundle, reproducible: bool
) -> None:
    """Beside a sample that dies of NaN after its third step, as beside one that is called off then."""
    well = [wish(str(k), seed=k, reproducible=reproducible, scheduler="euler_a") for k in range(3)]
    poison = Poison(epsilon_bundle, lambda call: call >= 3)
    bundle = dataclasses.replace(epsilon_bundle, unet=poison)
    ours, last = latents_of(bundle, 8, *well, wish("ill", prompt=ILL))
    ill = last.pop("ill")
    assert isinstance(ill, Failed)
    assert isinstance(ill.error, NumericalError)
    assert all(isinstance(event, Finished) for event in last.values())
    if reproducible:
        theirs, _ = latents_of(epsilon_bundle, 8, *well)
    else:
        theirs, _ = latents_of(epsilon_bundle, 8, *well, wish("ill", prompt=ILL), cancel=("ill", 3))
    assert len(ours) == len(theirs) == 3
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.equal(mine, expected)


def test_one_nan_is_forgiven_and_the_picture_is_the_right_one(epsilon_bundle: Bundle) -> None:
    poison = Poison(epsilon_bundle, lambda call: call == 3)
    engine = engine_of(dataclasses.replace(epsilon_bundle, unet=poison))
    engine.submit(wish("ill", prompt=ILL, scheduler="euler_a"))
    events = drain(engine)
    expected = run(engine_of(epsilon_bundle), wish("ill", prompt=ILL, scheduler="euler_a"))["ill"]
    assert isinstance(events[-1], Finished)
    assert np.array_equal(events[-1].pictures[0], expected.pictures[0])
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert steps == sorted(set(steps)), "progress never goes back"
    assert len(poison.batches) == 3 + 6, "started over once"
    assert (engine.free_seats, engine.idle) == (engine.seats, True)


def test_the_second_nan_ends_it(epsilon_bundle: Bundle) -> None:
    poison = Poison(epsilon_bundle)
    last = run(engine_of(dataclasses.replace(epsilon_bundle, unet=poison)), wish("ill", prompt=ILL, num_images=2))
    assert isinstance(last["ill"], Failed)
    assert last["ill"].error.slug == "numerical-error"
    assert len(poison.batches) <= 3


def test_what_overflows_in_half_precision_is_drawn_in_float32(half_bundle: Bundle) -> None:
    poison = Poison(half_bundle, only_half=True)
    bundle = dataclasses.replace(half_bundle, unet=poison)
    last = run(engine_of(bundle), wish("ill", prompt=ILL, num_inference_steps=2), wish("well", num_inference_steps=2))
    assert isinstance(last["ill"], Finished), last
    assert isinstance(last["well"], Finished)
    assert [last[name].images[0].is_rescued for name in ("ill", "well")] == [True, False]


def test_out_of_memory_loses_nobody_and_draws_no_noise_twice(epsilon_bundle: Bundle) -> None:
    """A stochastic solver whose step is repeated must not take other noise the second time."""

    def crowded(call: int, rows: torch.Tensor) -> None:
        if len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    bundle, unet = scripted(epsilon_bundle, crowded)
    requests = [wish(str(seed), seed=seed, scheduler="euler_a") for seed in range(5)]
    last = run(engine_of(bundle), *requests)
    for request in requests:
        alone = run(engine_of(epsilon_bundle), request)[request.id]
        event = last[request.id]
        assert isinstance(event, Finished)
        assert np.abs(event.pictures[0].astype(int) - alone.pictures[0]).max() <= 1
    assert unet.batches.count(10) == 1, "the batch that was too big is not tried again"
