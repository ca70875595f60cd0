"""Finished pictures are looked at behind their decode: the stock pipeline's verdict for each, whoever is drawn beside,
and the picture itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import diffusers
import numpy as np
import pytest
import torch

from tests.engine.driving import drain, engine_of, last_events, run, wish
from tests.engine.tiny_models import add_tiny_checker, save_tiny_model
from worker.engine.engine import Engine
from worker.engine.events import DrawnImage, Failed, Finished
from worker.models.bundle import Bundle, load, stock_pipeline
from worker.models.quiet import quiet_libraries
from worker.models.safety import SafetyChecker

ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to"
BRIGHT = 128
"""The scripted checker's limit: a mean level."""


def images_of(event: object) -> Sequence[DrawnImage]:
    assert isinstance(event, Finished), event
    return event.images


class Brightness:
    """Flags pictures that are brighter than `limit` on average, and notes how many it was shown at once."""

    def __init__(self, limit: float, *, most: int = 99, verdict: Callable[[torch.Tensor], torch.Tensor] | None = None):
        self.batches: list[int] = []
        self._limit, self._most, self._verdict = limit, most, verdict

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        assert pictures.shape[-1] == 3
        if len(pictures) > self._most:
            raise RuntimeError(ALLOCATOR)
        self.batches.append(len(pictures))
        means = pictures.float().mean((1, 2, 3)) - self._limit
        return means if self._verdict is None else self._verdict(means)


def drawn(engine: Engine, **changes: object) -> Sequence[DrawnImage]:
    [last] = run(engine, wish(num_images=4, num_inference_steps=1, **changes)).values()
    return images_of(last)


def a_limit_between(images: Sequence[DrawnImage]) -> float:
    means = sorted(float(image.pixels.mean()) for image in images)
    return (means[1] + means[2]) / 2


def test_without_a_checker_nobody_has_looked(epsilon_bundle: Bundle) -> None:
    assert [image.nsfw for image in drawn(engine_of(epsilon_bundle))] == [None] * 4


def test_each_picture_has_its_verdict_and_its_pixels(epsilon_bundle: Bundle) -> None:
    before = drawn(engine_of(epsilon_bundle))
    limit = a_limit_between(before)
    checker = Brightness(limit)
    after = drawn(engine_of(epsilon_bundle, checker=checker))
    assert [image.nsfw for image in after] == [float(image.pixels.mean()) > limit for image in before]
    assert {image.nsfw for image in after} == {False, True}
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(before, after, strict=True))
    assert checker.batches == [4], "together, as they were decoded"


def test_the_host_need_not_wait_for_it(epsilon_bundle: Bundle) -> None:
    """Where pictures are taken a step later, so are the verdicts."""
    limit = a_limit_between(drawn(engine_of(epsilon_bundle)))
    engine = engine_of(epsilon_bundle, checker=Brightness(limit))
    engine._runs_ahead = True
    engine.submit(wish(num_images=4, num_inference_steps=1))
    assert {image.nsfw for image in images_of(last_events(drain(engine))["a"])} == {False, True}


def test_too_little_memory_strikes_fewer_and_fewer(epsilon_bundle: Bundle) -> None:
    limit = a_limit_between(drawn(engine_of(epsilon_bundle)))
    checker = Brightness(limit, most=1)
    assert {image.nsfw for image in drawn(engine_of(epsilon_bundle, checker=checker))} == {False, True}
    assert checker.batches == [1] * 4
    [last] = run(engine_of(epsilon_bundle, checker=Brightness(limit, most=0)), wish(num_inference_steps=1)).values()
    assert isinstance(last, Failed)
    assert last.error.slug == "out-of-memory"


def test_what_it_raises_or_cannot_say_ends_that_job_only(epsilon_bundle: Bundle) -> None:
    """A picture that was not judged is not one that was found harmless."""

    def fail_alone(means: torch.Tensor) -> torch.Tensor:
        return torch.full_like(means, float("nan")) if len(means) == 1 else means

    engine = engine_of(epsilon_bundle, checker=Brightness(-1.0, verdict=fail_alone))
    last = run(engine, wish("a", num_inference_steps=2), wish("b", num_images=2, num_inference_steps=1))
    assert isinstance(last["a"], Failed)
    assert last["a"].error.slug == "numerical-error"
    assert "safety checker" in last["a"].error.detail
    assert [image.nsfw for image in images_of(last["b"])] == [True, True]


def test_warming_up_shows_it_a_picture(epsilon_bundle: Bundle) -> None:
    checker = Brightness(0.0)
    engine_of(epsilon_bundle, checker=checker).warm_up(seconds=0.0)
    assert checker.batches == [1]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, diffusers.StableDiffusionPipeline]:
    """A model with a checker that flags some, and the stock pipeline made of the same folder."""
    with quiet_libraries():
        folder = save_tiny_model(tmp_path_factory.mktemp("models") / "checked", prediction_type="epsilon")
        add_tiny_checker(folder)
        bundle = load(folder, safety="flag")
        assert bundle.checker is not None
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipeline.scheduler = stock_pipeline(bundle, "ddim").scheduler
    pipeline.set_progress_bar_config(disable=True)
    return bundle, pipeline


def test_it_is_the_verdict_of_the_stock_pipeline_beside_strangers(
    checked: tuple[Bundle, diffusers.StableDiffusionPipeline],
) -> None:
    bundle, pipeline = checked
    checker = bundle.checker
    assert isinstance(checker, SafetyChecker)
    asked = [wish(f"{seed}", seed=seed, num_inference_steps=2) for seed in range(20, 28)]
    first = {id: images_of(last)[0] for id, last in run(engine_of(bundle), *asked).items()}
    with torch.inference_mode():
        pictures = torch.from_numpy(np.stack([image.pixels for image in first.values()]))
        # Thresholds are at 2, so that a score says how far below 2 the nearest concept is.
        nearest = checker(pictures) / 1000 + 2
    limit = float(nearest.median()) + 0.001
    for model in (checker.model, pipeline.safety_checker):
        model.concept_embeds_weights.data.fill_(limit)
    last = run(engine_of(bundle, checker=checker), *asked, wish("x", num_images=3, num_inference_steps=5))
    ours = {id: images_of(last[id])[0] for id in first}
    for request in asked:
        with quiet_libraries():
            answer = pipeline(
                request.prompt, height=request.height, width=request.width, num_inference_steps=2, guidance_scale=4.0,
                negative_prompt="", generator=torch.Generator().manual_seed(request.seed),
            )  # fmt: skip
        assert [ours[request.id].nsfw] == answer.nsfw_content_detected, request.id
        theirs, mine = np.asarray(answer.images[0]), ours[request.id].pixels
        assert theirs.any() != ours[request.id].nsfw
        assert mine.any(), "never a black one"
        if theirs.any():
            assert np.abs(theirs.astype(int) - mine).max() <= 1
    assert {image.nsfw for image in ours.values()} == {False, True}
