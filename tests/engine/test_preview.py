"""Pictures on the way: how good they are, when they are due, and that nobody else notices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from tests.engine.driving import drain, engine_of, final_latents, wish
from tests.engine.tiny_models import SIDE, STARTER, save_tiny_model
from worker.engine.engine import Engine
from worker.engine.errors import DeviceLost
from worker.engine.events import Finished, Preview, Progress
from worker.engine.looks import MOST_FAILURES
from worker.engine.preview import fit, synthetic_pictures, to_pixels
from worker.families.choose import family_of
from worker.models.bundle import Bundle, load


def previews_of(engine: Engine, **changes: Any) -> list[Preview]:
    engine.submit(wish(**changes))
    return [event for event in drain(engine) if isinstance(event, Preview)]


def test_previews_come_every_so_many_evaluations_of_every_picture(epsilon_bundle: Bundle) -> None:
    found = previews_of(engine_of(epsilon_bundle), num_images=2, preview_every=2, num_inference_steps=7)
    assert [(each.request_id, each.index, each.step, each.steps) for each in found] == [
        ("a", index, step, 7) for step in (2, 4, 6) for index in (0, 1)
    ]
    assert {(each.picture.shape, each.picture.dtype) for each in found} == {
        ((SIDE // 2, SIDE // 2, 3), np.dtype("uint8"))
    }


@pytest.mark.parametrize("preview_every", [0, 6, 100])
def test_nobody_who_wants_none_gets_one(epsilon_bundle: Bundle, preview_every: int) -> None:
    """The last evaluation needs none: the picture itself comes next."""
    assert previews_of(engine_of(epsilon_bundle), preview_every=preview_every) == []


def test_evaluations_are_counted_where_a_step_has_two(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle)
    engine.submit(wish(scheduler="heun", preview_every=4))
    events = drain(engine)
    assert [event.step for event in events if isinstance(event, Preview)] == [4, 8]
    assert max(event.step for event in events if isinstance(event, Progress)) == 11


def test_watching_changes_no_picture(epsilon_bundle: Bundle) -> None:
    requests = [wish(scheduler="euler_a"), wish("b", scheduler="dpmpp_2m", seed=9)]
    watched = [request.model_copy(update={"preview_every": 1}) for request in requests]
    for alone, seen in zip(
        final_latents(epsilon_bundle, *requests), final_latents(epsilon_bundle, *watched), strict=True
    ):
        assert torch.equal(alone, seen)


def test_a_request_that_is_over_has_no_more_previews(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle)
    engine.submit(wish(preview_every=1))
    engine.step()
    engine.cancel("a")
    assert not [event for event in drain(engine) if isinstance(event, Preview)]


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmpp_2m_karras", "lms"])
def test_the_last_preview_shows_the_picture(scheduler: str) -> None:
    """The starter, whose pictures are worth looking at. 0.13 of the range is what its VAE's details weigh."""
    starter = load(STARTER)
    engine = engine_of(starter)
    engine.submit(
        wish(prompt="a red circle on a blue background", width=128, height=128, scheduler=scheduler,
             num_inference_steps=12, preview_every=11)
    )  # fmt: skip
    *_, preview, _, finished = [event for event in drain(engine) if isinstance(event, Preview | Progress | Finished)]
    assert isinstance(preview, Preview)
    assert isinstance(finished, Finished)
    picture = finished.pictures[0].reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(preview.picture - picture).mean() < 12, "of 255"
    assert np.corrcoef(preview.picture.ravel(), picture.ravel())[0, 1] > 0.95


def test_the_map_is_fitted_without_data_and_always_the_same(epsilon_bundle: Bundle) -> None:
    first, second = (fit(family_of(epsilon_bundle).autoencoder, side=48) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (epsilon_bundle.latent_channels + 1, 12)
    before = torch.random.get_rng_state()
    pictures = synthetic_pictures(4, 32)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
    assert (pictures.min() >= -1, pictures.max() <= 1, pictures.std() > 0.3) == (True, True, True)


def test_a_vae_that_overflows_gives_grey_instead_of_an_error(epsilon_bundle: Bundle) -> None:
    bundle = dataclasses.replace(epsilon_bundle, vae=Overflowing(epsilon_bundle))
    pixels = to_pixels(fit(family_of(bundle).autoencoder, side=48), torch.full((1, 4, 3, 5), float("nan")))
    assert pixels.shape == (1, 6, 10, 3)
    assert set(pixels.flatten().tolist()) <= {127, 128}


@pytest.mark.parametrize("error", [RuntimeError("no"), torch.OutOfMemoryError("CUDA out of memory."), ValueError()])
def test_a_preview_that_raises_costs_nobody_a_picture(epsilon_bundle: Bundle, error: Exception) -> None:
    vae = CannotEncode(epsilon_bundle, error)
    with capture_logs() as logs:
        engine = engine_of(dataclasses.replace(epsilon_bundle, vae=vae))
        engine.submit(wish(preview_every=1))
        engine.submit(wish("b", seed=8, preview_every=2))
        events = drain(engine)
        engine.submit(wish("c", preview_every=1))
        events += drain(engine)
    assert not [event for event in events if isinstance(event, Preview)]
    finished = {event.request_id: event for event in events if isinstance(event, Finished)}
    plain = engine_of(epsilon_bundle)
    plain.submit(wish())
    [undisturbed] = [event for event in drain(plain) if isinstance(event, Finished)]
    assert np.array_equal(finished["a"].pictures[0], undisturbed.pictures[0])
    assert finished.keys() == {"a", "b", "c"}
    assert vae.asked == MOST_FAILURES, "the map is not fitted for ever"
    assert [line["log_level"] for line in logs] == ["warning", "warning"], "said when it begins, and when no more come"


def test_one_that_worked_again_is_not_held_against_previews(epsilon_bundle: Bundle) -> None:
    """Memory may be short for a moment, again and again."""
    vae = CannotEncode(epsilon_bundle, torch.OutOfMemoryError("CUDA out of memory."), times=MOST_FAILURES - 1)
    engine = engine_of(dataclasses.replace(epsilon_bundle, vae=vae))
    assert [each.step for each in previews_of(engine, preview_every=1)] == [3, 4, 5]
    assert engine.preview_failures == MOST_FAILURES - 1


def test_a_preview_that_finds_the_device_lost_says_so(epsilon_bundle: Bundle) -> None:
    vae = CannotEncode(epsilon_bundle, RuntimeError("CUDA error: an illegal memory access was encountered"))
    engine = engine_of(dataclasses.replace(epsilon_bundle, vae=vae))
    engine.submit(wish(preview_every=1))
    with pytest.raises(DeviceLost):
        drain(engine)


class CannotEncode:
    """A VAE that previews cannot learn from, the first so many `times`. It decodes like any other."""

    def __init__(self, bundle: Bundle, error: Exception, *, times: int = 1_000) -> None:
        self._vae, self._error, self._times = bundle.vae, error, times
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def encode(self, images: torch.Tensor) -> Any:
        self.asked += 1
        if self.asked <= self._times:
            raise self._error
        return self._vae.encode(images)


class Overflowing:
    """A VAE in a type that is too small for it."""

    def __init__(self, bundle: Bundle) -> None:
        self._vae, self.config = bundle.vae, bundle.vae.config
        self.device, self.dtype = bundle.vae.device, bundle.vae.dtype

    def encode(self, images: torch.Tensor) -> Any:
        return self._vae.encode(images)

    def decode(self, z: torch.Tensor, **options: Any) -> Any:
        return [self._vae.decode(z, **options)[0] * float("nan")]


def test_taesd_layouts_have_previews_too(tmp_path: Path) -> None:
    bundle = load(save_tiny_model(tmp_path / "tiny", prediction_type="epsilon", vae="AutoencoderTiny"))
    assert len(previews_of(engine_of(bundle), preview_every=3)) == 1
