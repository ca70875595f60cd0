"""Every step looked at: what is kept is what the stock pipeline's callback sees, and nobody else notices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from app.contract.messages import trajectory as limits
from app.contract.messages.trajectory import BOTH, Trajectory
from app.contract.messages.unclip import Prior
from tests.engine.driving import (
    Recorder,
    drain,
    engine_of,
    final_latents,
    last_events,
    run,
    scripted,
    stock_call,
    wish,
)
from tests.engine.pictures import box_mask, edit, picture
from tests.engine.test_passes import Enlarging
from tests.engine.tiny_models import SIDE, save_tiny_karlo
from worker.engine import recording
from worker.engine.engine import Engine
from worker.engine.events import DrawnImage, Finished, Preview
from worker.engine.recording import NO_PREVIEWS, Recording, frames_of_each, spread
from worker.engine.request import Request
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load
from worker.models.quiet import quiet_libraries

EVERY = Trajectory()
HALF = 2.0**-11
"""How far float16 rounds a number, relative to it."""


def kept(image: DrawnImage) -> Recording:
    found = image.recordings.trajectory
    assert found is not None
    return found


def drawn(engine: Engine, *requests: Request) -> dict[str, Finished]:
    """What each request ended with."""
    ended = run(engine, *requests)
    assert all(isinstance(event, Finished) for event in ended.values()), ended
    return {id: event for id, event in ended.items() if isinstance(event, Finished)}


def stock_steps(bundle: Bundle, request: Request) -> list[torch.Tensor]:
    """The latents after each step of diffusers' own pipeline, [C, h, w]."""
    seen: list[torch.Tensor] = []

    def look(pipeline: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(tensors["latents"][0].clone())
        return tensors

    stock_call(bundle, request, output_type="latent", callback_on_step_end=look)
    return seen


def assert_equal_to_stock(bundle: Bundle, request: Request, found: Recording) -> None:
    """Each step to 5e-5 of the standard deviation, and what float16 rounds."""
    steps = stock_steps(bundle, request)
    assert [moment.step for moment in found.moments] == list(range(len(steps) + 1))
    assert found.whole == list(range(len(steps) + 1))
    for place, latents in enumerate(steps, 1):
        ours = torch.from_numpy(found.latents["noisy"][place].astype(np.float32))
        allowed = 5e-5 * latents.std() + HALF * latents.abs()
        assert bool(((ours - latents).abs() <= allowed).all()), (request.id, place)


def test_a_hundred_of_a_hundred_are_those_of_the_stock_pipeline(epsilon_bundle: Bundle) -> None:
    """In company that comes and goes, with other schedulers."""
    asked = wish("a", scheduler="euler_a", num_inference_steps=100, trajectory=EVERY)
    others = [wish("b", scheduler="ddim", num_inference_steps=7, seed=9), wish("c", scheduler="heun", guidance_scale=1)]
    found = kept(drawn(engine_of(epsilon_bundle), asked, *others)["a"].images[0])
    assert found.latents["noisy"].shape == (101, 4, 16, 16)
    assert_equal_to_stock(epsilon_bundle, asked, found)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m_karras", "heun", "pndm", "lcm"])
def test_every_kind_of_solver(epsilon_bundle: Bundle, scheduler: str) -> None:
    asked = wish(scheduler=scheduler, trajectory=EVERY)
    assert_equal_to_stock(epsilon_bundle, asked, kept(drawn(engine_of(epsilon_bundle), asked)["a"].images[0]))


def test_a_scheduler_that_no_table_does(epsilon_bundle: Bundle) -> None:
    scheduler = type(epsilon_bundle.scheduler).from_config(epsilon_bundle.scheduler.config, skip_prk_steps=False)
    bundle = dataclasses.replace(epsilon_bundle, scheduler=scheduler)
    asked = wish(scheduler="pndm", trajectory=EVERY)
    assert_equal_to_stock(bundle, asked, kept(drawn(engine_of(bundle), asked)["a"].images[0]))


def test_edits_from_where_they_begin(epsilon_bundle: Bundle) -> None:
    changed = edit("a", picture(), strength=0.5, num_inference_steps=8, scheduler="euler", trajectory=EVERY)
    repainted = edit("b", picture(), box_mask(), strength=0.75, num_inference_steps=8, trajectory=EVERY)
    ended = drawn(engine_of(epsilon_bundle), changed, repainted)
    for request, steps in ((changed, 4), (repainted, 6)):
        found = kept(ended[request.id].images[0])
        assert len(found.moments) == steps + 1
        assert_equal_to_stock(epsilon_bundle, request, found)


def test_sdxl(xl_bundle: Bundle) -> None:
    asked = wish(trajectory=EVERY, scheduler="euler", num_inference_steps=4)
    assert_equal_to_stock(xl_bundle, asked, kept(drawn(engine_of(xl_bundle), asked)["a"].images[0]))


def test_the_last_latents_are_the_pictures(epsilon_bundle: Bundle) -> None:
    asked = wish(trajectory=EVERY, num_images=2)
    autoencoder = family_of(epsilon_bundle).autoencoder
    for image in drawn(engine_of(epsilon_bundle), asked)["a"].images:
        last = torch.from_numpy(kept(image).latents["noisy"][-1:].astype(np.float32))
        decoded = (autoencoder.decode(last)[0].permute(1, 2, 0) * 0.5 + 0.5).clamp(0, 1) * 255
        assert np.abs(decoded.numpy() - image.pixels).max() <= 1.5, "float16 moves a pixel by less than its rounding"


def test_the_first_is_the_noise_and_the_estimates_are_those_of_previews(epsilon_bundle: Bundle) -> None:
    """Estimates are drawn by the map that previews are drawn by; the first step has none."""
    asked = wish(scheduler="euler", preview_every=1, trajectory=EVERY)
    engine = engine_of(epsilon_bundle)
    engine.submit(asked)
    events = drain(engine)
    found = kept(last_events(events)["a"].images[0])  # type: ignore[union-attr]
    previews = {event.step: event.picture for event in events if isinstance(event, Preview)}
    assert previews.keys() == {1, 2, 3, 4, 5}
    for step, pixels in previews.items():
        seen = found.pixels("estimate", step)
        assert seen is not None
        assert np.abs(seen.astype(int) - pixels).max() <= 1
    assert not found.arrived["estimate"][0]
    sigmas = [moment.sigma for moment in found.moments]
    assert sigmas == sorted(sigmas, reverse=True)  # type: ignore[type-var]
    assert sigmas[-1] == 0
    assert found.latents["noisy"][0].std() == pytest.approx(sigmas[0], rel=0.2)
    assert found.latents["noisy"][0].std() > 5
    assert np.abs(found.seen("noisy", 0)).std() < 1.5, "looked at it is as large as a finished one"
    assert [moment.timestep is None for moment in found.moments] == [False] * 6 + [True]


def test_looking_changes_no_picture(epsilon_bundle: Bundle) -> None:
    requests = [wish(scheduler="euler_a"), wish("b", scheduler="dpmpp_2m", seed=9)]
    looked_at = [request.model_copy(update={"trajectory": EVERY}) for request in requests]
    for alone, seen in zip(
        final_latents(epsilon_bundle, *requests), final_latents(epsilon_bundle, *looked_at), strict=True
    ):
        assert torch.equal(alone, seen)


def test_nothing_is_kept_of_who_did_not_ask(epsilon_bundle: Bundle) -> None:
    ended = drawn(engine_of(epsilon_bundle), wish("a", trajectory=EVERY), wish("b"), wish("c", preview_every=2))
    assert [len(list(ended[id].images[0].recordings)) for id in "abc"] == [1, 0, 0]


def test_every_so_many_and_one_series(epsilon_bundle: Bundle) -> None:
    asked = wish(trajectory=Trajectory(every=4, show=("estimate",)), num_inference_steps=10)
    found = kept(drawn(engine_of(epsilon_bundle), asked)["a"].images[0])
    assert [moment.step for moment in found.moments] == [0, 4, 8, 10]
    assert (list(found.latents), found.whole) == (["estimate"], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("first", "last", "every", "most", "steps"),
    [
        (0, 20, 5, 64, [5, 10, 15]),
        (0, 50, 1, 64, list(range(1, 50))),
        (0, 65, 1, 64, list(range(1, 65))),
        (0, 100, 1, 64, list(range(2, 100, 2))),
        (0, 199, 1, 64, list(range(4, 199, 4))),
        (0, 1_000, 3, 64, list(range(18, 1_000, 18))),
        (0, 3, 5, 64, []),
        (3, 10, 2, 64, [4, 6, 8]),
        (3, 10, 1, 3, [4, 6, 8]),
        (0, 10, 1, 0, []),
    ],
)
def test_evenly_spread(first: int, last: int, every: int, most: int, steps: list[int]) -> None:
    assert spread(first, last, every=every, most=most) == steps
    assert len(steps) <= max(most, 0)


def test_what_does_not_fit_is_thinned_out_and_said(epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    step = 2 * 2 * 4 * 16 * 16
    monkeypatch.setattr(recording, "MOST_BYTES", 2 * 5 * step)
    asked = wish(trajectory=EVERY, num_images=2, num_inference_steps=10)
    ended = drawn(engine_of(epsilon_bundle), asked)["a"]
    assert [[moment.step for moment in kept(image).moments] for image in ended.images] == [[0, 3, 6, 9, 10]] * 2
    assert sum(array.nbytes for image in ended.images for array in kept(image).latents.values()) <= 2 * 5 * step
    [said] = ended.warnings
    assert said.startswith("Of 11 steps of the trajectory, 5 were kept")


def test_the_bound_of_a_job() -> None:
    """Nineteen pictures of 512 pixels and 100 steps, as the limit says of itself; and the ends in any case."""
    assert (
        frames_of_each(19, (4, 64, 64), 2, is_decoded=False)
        >= 101
        > frames_of_each(21, (4, 64, 64), 2, is_decoded=False)
    )
    assert frames_of_each(1, (4, 16, 16), 1, is_decoded=False) == limits.MOST_STEPS
    assert frames_of_each(limits.MOST_PICTURES, (16, 256, 256), 2, is_decoded=True) == 2


def test_kept_previews_are_the_same_thing(epsilon_bundle: Bundle) -> None:
    asked = wish(preview_every=1, keep_previews=True, num_inference_steps=100, trajectory=Trajectory(every=50))
    ended = drawn(engine_of(epsilon_bundle), asked)["a"]
    previews = ended.images[0].recordings.previews
    assert previews is not None
    assert [moment.step for moment in previews.moments] == list(range(2, 100, 2))
    assert list(previews.latents) == ["estimate"]
    assert ended.warnings == ["Of 99 previews, 49 were kept: a sheet has at most 64."]
    assert [moment.step for moment in kept(ended.images[0]).moments] == [0, 50, 100]


def test_where_no_preview_is_due_it_is_said(epsilon_bundle: Bundle) -> None:
    ended = drawn(engine_of(epsilon_bundle), wish(preview_every=6, keep_previews=True))["a"]
    assert ended.warnings == [NO_PREVIEWS]


def test_of_two_passes_the_last(epsilon_bundle: Bundle) -> None:
    """What a first pass is about need not be latents of a picture. Steps are counted as progress counts them."""
    asked = wish(num_inference_steps=4, trajectory=EVERY, preview_every=2, keep_previews=True)
    image = drawn(Engine(Enlarging(epsilon_bundle)), asked)["a"].images[0]
    assert [moment.step for moment in kept(image).moments] == [3, 4, 5, 6, 7]
    assert [moment.step for moment in image.recordings.previews.moments] == [4, 6]  # type: ignore[union-attr]


def test_who_starts_over_is_recorded_anew(epsilon_bundle: Bundle) -> None:
    def poisoned_once(call: int, rows: torch.Tensor) -> None:
        if call == 3:
            rows.fill_(float("nan"))

    bundle, _ = scripted(epsilon_bundle, poisoned_once)
    asked = wish(trajectory=EVERY, preview_every=1, keep_previews=True)
    [image] = drawn(engine_of(bundle), asked)["a"].images
    assert image.is_rescued
    assert_equal_to_stock(epsilon_bundle, asked, kept(image))
    assert [moment.step for moment in image.recordings.previews.moments] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]


def test_latents_that_cannot_be_copied_cost_nobody_a_picture(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.engine import looks

    copies: list[Any] = []

    def second_fails(tensor: torch.Tensor) -> Any:
        copies.append(tensor)
        if len(copies) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tensor, None

    monkeypatch.setattr(looks, "to_host", second_fails)
    with capture_logs() as logs:
        ended = drawn(engine_of(epsilon_bundle), wish(trajectory=EVERY))["a"]
    assert kept(ended.images[0]).whole == [0, 2, 3, 4, 5, 6]
    assert ended.warnings == ["1 of 7 steps of the trajectory are missing: memory was too small for them."]
    assert [line["log_level"] for line in logs] == ["warning"]


class Counted(Recorder):
    """A VAE that notes how many it decodes at once, and fails where it is told to."""

    def __init__(self, bundle: Bundle, *, fails: int = 0) -> None:
        super().__init__(bundle)
        self.batches: list[int] = []
        self.fails = fails

    def decode(self, z: torch.Tensor, **options: Any) -> Any:
        self.batches.append(len(z))
        if self.fails and len(self.batches) > 1:
            self.fails -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().decode(z, **options)


def test_frames_by_the_autoencoder(epsilon_bundle: Bundle) -> None:
    """All of them, four at a time at most, and one batch between two steps; also those that are left when the picture
    is finished."""
    vae = Counted(epsilon_bundle)
    engine = engine_of(dataclasses.replace(epsilon_bundle, vae=vae))
    engine.submit(wish(trajectory=Trajectory(decode="vae"), num_images=2))
    events, most = [], 0
    while not engine.idle:
        before = len(vae.batches)
        events += engine.step()
        # The first step decodes the pictures that the linear map learns from as well.
        most = max(most, len(vae.batches) - before) if before else most
    assert most == 1
    assert max(vae.batches[1:]) <= 4
    ended = last_events(events)["a"]
    assert isinstance(ended, Finished)
    assert not ended.warnings
    autoencoder = family_of(epsilon_bundle).autoencoder
    for image in ended.images:
        found = kept(image)
        assert found.decoded.keys() == {(each, k) for each in BOTH for k in range(7)} - {("estimate", 0), ("noisy", 6)}
        latents = torch.from_numpy(found.seen("noisy", 3)[None])
        exact = (autoencoder.decode(latents)[0].permute(1, 2, 0) * 0.5 + 0.5).clamp(0, 1) * 255
        assert np.abs(exact.numpy() - found.decoded["noisy", 3]).max() <= 1
    alone = drawn(engine_of(epsilon_bundle), wish(num_images=2))["a"]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(alone.images, ended.images, strict=True))


def test_pictures_that_wait_take_turns_with_frames(epsilon_bundle: Bundle) -> None:
    """A picture is sent off in the step after it is ready at the latest, however many frames wait."""
    engine = engine_of(epsilon_bundle)
    engine.submit(wish("a", trajectory=Trajectory(decode="vae"), num_images=4))
    engine.submit(wish("b", num_inference_steps=3))
    steps = []
    while not engine.idle:
        steps.append(engine.step())
    ends = {event.request_id: k for k, step in enumerate(steps) for event in step if isinstance(event, Finished)}
    assert ends["b"] <= 3
    assert ends["a"] > 6, "its frames are still decoded when it is finished"


def test_frames_without_memory_are_made_by_the_map(epsilon_bundle: Bundle) -> None:
    vae = Counted(epsilon_bundle, fails=1)
    ended = drawn(engine_of(dataclasses.replace(epsilon_bundle, vae=vae)), wish(trajectory=Trajectory(decode="vae")))[
        "a"
    ]
    [said] = ended.warnings
    assert said.endswith("frames of the trajectory come from the linear map: memory was too small to decode them.")
    found = kept(ended.images[0])
    assert found.undecoded > 0
    assert all(found.pixels(series, 1) is not None for series in BOTH)


def test_nothing_waits_for_the_frames_of_a_job_that_is_called_off(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle)
    engine.submit(wish(trajectory=Trajectory(decode="vae"), num_images=4))
    for _ in range(3):
        engine.step()
    engine.cancel("a")
    drain(engine)
    assert drawn(engine, wish("b"))["b"].images
    assert not engine._frames._waiting


def test_of_karlo_what_its_decoder_draws(tmp_path: Path) -> None:
    """A prior comes before it, and a super-resolution behind: the last latents are not the picture's."""
    with quiet_libraries():
        bundle = load(save_tiny_karlo(tmp_path / "tiny-karlo"))
    asked = wish(
        scheduler="UnCLIPScheduler", prior=Prior(num_inference_steps=2), trajectory=Trajectory(decode="vae"),
        num_inference_steps=3, preview_every=1, keep_previews=True,
    )  # fmt: skip
    ended = drawn(engine_of(bundle), asked)["a"]
    found, previews = kept(ended.images[0]), ended.images[0].recordings.previews
    assert [moment.step for moment in found.moments] == [2, 3, 4, 5]
    assert found.latents["noisy"].shape == (4, 3, SIDE // 4, SIDE // 4)
    assert (found.whole, found.undecoded, ended.warnings) == ([0, 1, 2, 3], 0, [])
    assert not found.is_picture("noisy", 3)
    assert ("noisy", 3) in found.decoded
    assert previews is not None
    assert [moment.step for moment in previews.moments] == [3, 4, 5]
    assert previews.whole == [0, 1, 2]


def test_a_trajectory_without_memory_for_it_costs_nobody_a_picture(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(Recording, "empty", full)
    engine = engine_of(epsilon_bundle)
    asked = {
        "kept": wish("kept", trajectory=Trajectory(), num_images=2),
        "both": wish("both", trajectory=Trajectory(), keep_previews=True, preview_every=2),
        "other": wish("other", preview_every=2),
    }
    ended = drawn(engine, *asked.values())
    no_trajectory = "No trajectory could be kept: there was no room to begin."
    no_previews = "No previews could be kept: there was no room to begin."
    assert {id: ended[id].warnings for id in asked} == {
        "kept": [no_trajectory],
        "both": [no_previews, no_trajectory],
        "other": [],
    }
