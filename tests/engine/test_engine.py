"""The life of a request in the engine, stepped by hand: seats, progress, cancelling and failures."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.engine.driving import SIDE, drain, engine_of, lanes_of, last_events, run, scripted, wish
from tests.waiting import WAIT_SECONDS
from worker.engine import errors
from worker.engine.costs import Profile
from worker.engine.errors import DeviceLost
from worker.engine.events import Failed, Finished, Progress, Started, Stopped
from worker.engine.stage import Stage
from worker.models.bundle import Bundle


def slug(event: object) -> str:
    assert isinstance(event, Failed), event
    assert event.error.detail.endswith("."), "a sentence for a person"
    return event.error.slug


def calm(call: int, rows: torch.Tensor) -> None:
    """A script in which nothing happens."""


def test_events_of_one_request(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle)
    engine.submit(wish(num_inference_steps=3, num_images=2))
    *news, finished = drain(engine)
    assert news == [Started("a"), *(Progress("a", step, 3) for step in (1, 2, 3))]
    assert isinstance(finished, Finished)
    assert [(image.index, image.seed) for image in finished.images] == [(0, 7), (1, 8)]
    assert finished.steps == 3
    assert finished.warnings == []
    assert [picture.shape for picture in finished.pictures] == [(SIDE, SIDE, 3)] * 2
    assert not np.array_equal(*finished.pictures)


@pytest.mark.parametrize(("scheduler", "evaluations"), [("pndm", 7), ("heun", 11), ("ddim", 6)])
def test_progress_counts_model_evaluations(epsilon_bundle: Bundle, scheduler: str, evaluations: int) -> None:
    engine = engine_of(epsilon_bundle)
    engine.submit(wish(scheduler=scheduler))
    steps = [(event.step, event.steps) for event in drain(engine) if isinstance(event, Progress)]
    assert steps == [(step, evaluations) for step in range(1, evaluations + 1)]


def test_timings_add_up(epsilon_bundle: Bundle) -> None:
    finished = run(engine_of(epsilon_bundle), wish())["a"]
    assert isinstance(finished, Finished)
    spent = finished.timings
    assert min(spent.encode, spent.denoise, spent.decode) > 0
    assert spent.encode + spent.denoise + spent.decode <= spent.wall


def test_more_images_than_seats(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=2)
    last = run(engine, wish("big", num_images=5, num_inference_steps=2), wish("small", num_inference_steps=2))
    assert isinstance(last["big"], Finished)
    assert [image.seed for image in last["big"].images] == [7, 8, 9, 10, 11]
    assert isinstance(last["small"], Finished)
    assert (engine.free_seats, engine.idle) == (2, True)


def test_free_seats_count_the_waiting_as_well(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=3)
    engine.submit(wish("a", num_images=2))
    assert engine.free_seats == 1
    engine.step()
    engine.submit(wish("b", num_images=9))
    assert engine.free_seats == 0
    engine.cancel("b")
    engine.step()
    assert engine.free_seats == 1


def test_missing_seats_are_counted_as_if_those_had_left_that_are_to(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=2)
    for id, images in (("a", 1), ("b", 3), ("c", 1)):
        engine.submit(wish(id, num_images=images))
    assert engine.missing_seats == 3
    engine.park("b")
    assert engine.missing_seats == 0


def test_for_samples_of_batch_jobs_no_seat_is_missing(epsilon_bundle: Bundle) -> None:
    """They may come between an interactive job and the look whether there is a seat for it."""
    engine = engine_of(epsilon_bundle, seats=2)
    engine.submit(wish("hasty"))
    engine.submit(wish("batch", num_images=2, priority="batch"))
    assert engine.missing_seats == 0
    engine.step()
    engine.submit(wish("another"))
    assert engine.missing_seats == 1


def test_a_seat_is_an_interactive_jobs_before_that_of_samples_that_can_wait(epsilon_bundle: Bundle) -> None:
    """A batch job may have come with more pictures than there are seats: one that another leaves is not its own."""
    engine = engine_of(epsilon_bundle, seats=2)
    engine.submit(wish("leaves", num_inference_steps=50, priority="batch"))
    engine.submit(wish("batch", num_images=2, num_inference_steps=50, priority="batch"))
    engine.step()
    engine.submit(wish("hasty", num_inference_steps=2))
    engine.park("leaves")
    assert Started("hasty") in engine.step()


def test_a_seat_that_is_left_is_taken_in_the_same_step(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=1)
    engine.submit(wish("first", num_inference_steps=50))
    engine.submit(wish("second", num_inference_steps=2))
    assert Progress("first", 1, 50) in engine.step()
    engine.cancel("first")
    assert engine.step() == [Stopped("first"), Started("second"), Progress("second", 1, 2)]
    assert isinstance(last_events(drain(engine))["second"], Finished)


def test_cancel_reaches_those_who_wait_and_no_strangers(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=1)
    engine.submit(wish("seated", num_inference_steps=2))
    engine.submit(wish("waiting"))
    engine.cancel("waiting")
    engine.cancel("nobody")
    last = last_events(drain(engine))
    assert isinstance(last["seated"], Finished)
    assert last["waiting"] == Stopped("waiting")


def test_an_id_may_come_back_after_it_was_canceled(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle)
    engine.submit(wish("a"))
    engine.cancel("a")
    engine.submit(wish("a", num_inference_steps=2))
    events = drain(engine)
    assert events[0] == Stopped("a")
    assert isinstance(events[-1], Finished)


def test_a_vae_that_overflows_is_an_error_and_no_black_picture(epsilon_bundle: Bundle) -> None:
    bundle = dataclasses.replace(epsilon_bundle, vae=PaintingVae(epsilon_bundle, 0.0, first=float("nan")))
    last = run(engine_of(bundle), wish("ill"), wish("well"))
    assert slug(last["ill"]) == "numerical-error"
    assert isinstance(last["well"], Finished)


def test_a_black_picture_is_a_picture(epsilon_bundle: Bundle) -> None:
    bundle = dataclasses.replace(epsilon_bundle, vae=PaintingVae(epsilon_bundle, -1.0))
    finished = run(engine_of(bundle), wish())["a"]
    assert isinstance(finished, Finished)
    assert finished.pictures[0].max() == 0


class PaintingVae:
    """Decodes everything to one value; to another one, if told so, in the first picture of a batch."""

    def __init__(self, bundle: Bundle, value: float, *, first: float | None = None) -> None:
        self.config, self.dtype, self._value, self._first = bundle.vae.config, bundle.dtype, value, first
        self.batches: list[int] = []

    def decode(self, z: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        self.batches.append(len(z))
        images = torch.full((len(z), 3, SIDE, SIDE), self._value)
        if self._first is not None:
            images[0] = self._first
        return (images,)


def test_too_big_for_the_device_fails_that_size_only(epsilon_bundle: Bundle) -> None:
    def no_room_for_wide_ones(call: int, rows: torch.Tensor) -> None:
        if rows.shape[-1] > SIDE // 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    bundle, _ = scripted(epsilon_bundle, no_room_for_wide_ones)
    last = run(engine_of(bundle), wish("wide", width=2 * SIDE), wish("native"))
    assert slug(last["wide"]) == "out-of-memory"
    assert isinstance(last["native"], Finished)


def test_a_call_that_raises_is_repeated_for_each_alone(epsilon_bundle: Bundle) -> None:
    def afraid_of_company(call: int, rows: torch.Tensor) -> None:
        if len(rows) != 2:
            raise RuntimeError("expected scalar type Half but found Float")

    bundle, _ = scripted(epsilon_bundle, afraid_of_company)
    last = run(engine_of(bundle), wish("two rows"), wish("one row", guidance_scale=1.0))
    assert isinstance(last["two rows"], Finished)
    assert slug(last["one row"]) == "generation-failed"


@pytest.mark.parametrize(
    "error", [torch.AcceleratorError("unspecified launch failure"), RuntimeError("CUDA error: device-side assert")]
)
def test_a_lost_device_is_not_one_requests_fault(epsilon_bundle: Bundle, error: Exception) -> None:
    def unplugged(call: int, rows: torch.Tensor) -> None:
        raise error

    bundle, _ = scripted(epsilon_bundle, unplugged)
    engine = engine_of(bundle)
    engine.submit(wish())
    with pytest.raises(DeviceLost):
        drain(engine)


def test_a_lost_device_may_show_late(epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run later than the call that started them: the error comes with the next synchronisation."""

    def late(*args: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    engine = engine_of(epsilon_bundle)
    engine.submit(wish())
    monkeypatch.setattr(torch, "isfinite", late)
    with pytest.raises(DeviceLost):
        engine.step()


def test_a_call_that_left_the_device_well_ends_its_own_request(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel of an impossible size is one request's affair: the device is asked before it is given up."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(errors, "one_small_kernel", lambda: None)

    def impossible(call: int, rows: torch.Tensor) -> None:
        if len(rows) != 2:
            raise torch.AcceleratorError("CUDA error: invalid configuration argument")

    bundle, _ = scripted(epsilon_bundle, impossible)
    last = run(engine_of(bundle), wish("two rows"), wish("one row", guidance_scale=1.0))
    assert isinstance(last["two rows"], Finished)
    assert slug(last["one row"]) == "generation-failed"


def test_a_scheduler_that_raises_ends_its_own_request(epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*args: Any, **options: Any) -> None:
        raise ArithmeticError("division by zero")

    monkeypatch.setattr(diffusers.EulerDiscreteScheduler, "step", stumble)
    last = run(engine_of(epsilon_bundle), wish("stumbles", scheduler="euler"), wish("walks"))
    assert slug(last["stumbles"]) == "generation-failed"
    assert isinstance(last["walks"], Finished)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"scheduler": "warp_drive"}, "take one of ddim"),
        ({"width": SIDE + 1}, "multiples of 4"),
        ({"scheduler": "lcm", "num_inference_steps": 51}, "lcm cannot take 51 steps"),
        ({"scheduler": "ddim", "num_inference_steps": 1_001}, "ddim cannot take 1001 steps"),
    ],
)
def test_what_does_not_fit_the_model_is_said(epsilon_bundle: Bundle, changes: dict[str, Any], remedy: str) -> None:
    last = run(engine_of(epsilon_bundle), wish("unfit", **changes), wish("fit"))
    assert slug(last["unfit"]) == "generation-failed"
    assert remedy in last["unfit"].error.detail
    assert isinstance(last["fit"], Finished)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"height": -8},
        {"num_inference_steps": 0},
        {"num_images": 0},
        {"guidance_scale": -0.1},
        {"guidance_scale": float("nan")},
        {"guidance_scale": float("inf")},
        {"seed": -1},
        {"seed": 2**63 - 1, "num_images": 2},
    ],
)
def test_a_request_out_of_range_is_never_built(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        wish(**changes)


def test_the_largest_seed_and_seed_zero(epsilon_bundle: Bundle) -> None:
    last = run(
        engine_of(epsilon_bundle),
        wish("zero", seed=0, num_inference_steps=1),
        wish("largest", seed=2**63 - 1, num_inference_steps=1),
    )
    assert [event.images[0].seed for event in last.values()] == [0, 2**63 - 1]


def test_unguided_requests_take_one_row(epsilon_bundle: Bundle) -> None:
    bundle, unet = scripted(epsilon_bundle, calm)
    run(engine_of(bundle), wish(guidance_scale=1.0), wish("b", num_images=2))
    assert set(unet.batches) == {5}


def test_sizes_take_turns_by_what_they_cost(epsilon_bundle: Bundle) -> None:
    widths: list[int] = []
    bundle, _ = scripted(epsilon_bundle, lambda call, rows: widths.append(rows.shape[-1]))
    run(engine_of(bundle), wish("a", num_inference_steps=4), wish("b", width=2 * SIDE, num_inference_steps=3))
    assert widths == [16, 32, 16, 16, 32, 16, 32]


def test_decoding_takes_at_most_four_at_once(epsilon_bundle: Bundle) -> None:
    vae = PaintingVae(epsilon_bundle, 0.0)
    run(engine_of(dataclasses.replace(epsilon_bundle, vae=vae)), wish(num_images=6))
    assert vae.batches == [4, 2]


def test_waiting_for_work_ends_with_a_submit(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle)
    woken = threading.Event()
    thread = threading.Thread(target=lambda: (engine.wait_for_work(2 * WAIT_SECONDS), woken.set()))
    thread.start()
    engine.submit(wish())
    assert woken.wait(WAIT_SECONDS)
    thread.join()
    engine.cancel("a")
    assert engine.step() == [Stopped("a")]


def test_who_watches_sees_each_piece_of_work_and_nothing_between_steps(epsilon_bundle: Bundle) -> None:
    """One that takes long may not use up the time of the next: a decode's begins when the step has ended."""
    seen: list[Stage | None] = []
    bundle, _ = scripted(epsilon_bundle, lambda call, rows: seen.append(engine.stage))
    engine = engine_of(dataclasses.replace(bundle, vae=Watched(bundle.vae, lambda: seen.append(engine.stage))))
    assert engine.stage is None, "nobody has work yet, however long the warm-up takes"
    engine.warm_up(Profile(4, 1.0, {2: 1.0}, seconds={2: 3.0}, decode_seconds=5.0))
    engine.submit(wish(num_inference_steps=2))
    drain(engine)
    names = [stage.name for stage in seen if stage]
    assert names == ["denoise", "denoise", "decode"]
    assert len(set(map(id, seen))) == 3
    assert engine.stage is None


def test_what_is_expected_grows_with_rows_and_size(epsilon_bundle: Bundle) -> None:
    lanes = lanes_of(epsilon_bundle, seats=4)
    native = lanes.native
    assert (lanes.costs.step_seconds(native, 8), lanes.costs.decode_seconds(native, 2)) == (0, 0)
    row = lanes.costs.row(native)
    lanes.costs.profile = Profile(4, row, {2: 1.0, 4: 1.5}, seconds={2: 3.0, 4: 4.0}, decode_seconds=5.0)
    channels, height, width = native.latent_shape
    large = dataclasses.replace(native, latent_shape=(channels, 2 * height, 2 * width))
    assert lanes.costs.step_seconds(native, 8) == pytest.approx(12.0), "of the size that suits worst"
    assert lanes.costs.step_seconds(large, 8) >= 4 * 12.0
    assert lanes.costs.decode_seconds(large, 2) == pytest.approx(40.0)
    assert lanes.picture_seconds == pytest.approx(3.0 + 5.0)
    lanes.costs.profile = dataclasses.replace(lanes.costs.profile, decode_seconds=0.0)
    assert lanes.costs.decode_seconds(large, 2) == pytest.approx(36.0), "as three rows, where none could be timed"


class Watched:
    """A VAE that tells when it is asked to decode."""

    def __init__(self, vae: Any, tell: Callable[[], None]) -> None:
        self._vae, self._tell = vae, tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def decode(self, *args: Any, **options: Any) -> Any:
        self._tell()
        return self._vae.decode(*args, **options)


def test_requests_from_many_threads(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, seats=3)
    threads = [
        threading.Thread(target=lambda k=k: [engine.submit(wish(f"{k}.{n}", num_inference_steps=1)) for n in range(4)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(last_events(drain(engine))) == 16


def test_an_engine_needs_a_seat(epsilon_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="seats"):
        engine_of(epsilon_bundle, seats=0)
