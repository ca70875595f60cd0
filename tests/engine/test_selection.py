"""Of more pictures than are wanted the best are kept, and the worse half is given up on the way: the same ones whoever
is drawn beside, and each as it would have been drawn alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from app.contract.messages.trajectory import Trajectory
from tests.engine.driving import drain, engine_of, last_events, run, wish
from tests.engine.tiny_models import SIDE
from worker.engine import selection
from worker.engine.engine import Engine
from worker.engine.events import Finished, Progress, Stopped
from worker.engine.lane import Lane
from worker.engine.request import Request
from worker.engine.sample import Job, Sample
from worker.models.bundle import Bundle


class Brightest:
    """The brighter a picture, the better; its probability is its mean level of 255. Notes what it was shown."""

    def __init__(self, *, broken: bool = False) -> None:
        self.shown: list[tuple[int, ...]] = []
        self._broken = broken

    def __call__(self, pictures: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        assert len(pictures) == len(requests)
        self.shown.append(tuple(pictures.shape))
        if self._broken and pictures.shape[1] < requests[0].height:
            raise RuntimeError("no estimates today")
        means = pictures.float().mean((1, 2, 3))
        return torch.stack([means, means / 255], dim=1)

    def describe(self, request: Request) -> Mapping[str, Any]:
        return {"scorer": "brightness", "texts": [*request.expect]}

    def rehearse(self, pictures: torch.Tensor) -> None: ...


def finished(engine: Engine, *requests: Request) -> Finished:
    last = run(engine, *requests)[requests[0].id]
    assert isinstance(last, Finished), last
    return last


@pytest.fixture(scope="module")
def alone(epsilon_bundle: Bundle) -> dict[int, np.ndarray]:
    """Eight pictures and nobody who judges, by their seeds."""
    drawn = finished(engine_of(epsilon_bundle), wish(num_images=8))
    assert [image.score for image in drawn.images] == [None] * 8
    assert not drawn.candidates
    return {image.seed: image.pixels for image in drawn.images}


def brightness(pixels: np.ndarray) -> float:
    return float(pixels.astype(np.float64).mean())


def test_the_best_two_of_eight_are_kept(epsilon_bundle: Bundle, alone: dict[int, np.ndarray]) -> None:
    judge = Brightest()
    drawn = finished(engine_of(epsilon_bundle, judge=judge), wish(num_images=2, best_of=8))
    assert [each.index for each in drawn.candidates] == list(range(8))
    assert [each.seed for each in drawn.candidates] == list(range(7, 15))
    survivors = [each for each in drawn.candidates if each.pruned_at is None]
    # After 4 of 6 evaluations: the first that is not before 60 %.
    assert [each.pruned_at for each in drawn.candidates if each not in survivors] == [4] * 4
    assert all(each.score is None and not each.kept for each in drawn.candidates if each not in survivors)
    estimates = sorted((each.estimated_score for each in drawn.candidates), reverse=True)
    assert {each.estimated_score for each in survivors} == set(estimates[:4])
    best = sorted(survivors, key=lambda each: -each.score)[:2]
    assert [image.index for image in drawn.images] == [each.index for each in best]
    assert [image.score for image in drawn.images] == [each.score for each in best]
    for image in drawn.images:
        assert np.abs(image.pixels.astype(int) - alone[image.seed].astype(int)).max() <= 1
        assert image.score == pytest.approx(brightness(image.pixels), abs=0.01)
    # What was given up was neither denoised nor decoded to its end.
    assert sum(shape[0] for shape in judge.shown if shape[1] == SIDE) == 4
    assert drawn.judged_by == {"scorer": "brightness", "texts": []}


@pytest.mark.parametrize("seats", [1, 3])
def test_who_is_kept_does_not_depend_on_company_and_seats(epsilon_bundle: Bundle, seats: int) -> None:
    """Where there are few seats, some are finished before the others have begun, and may have to go all the same."""
    asked = wish(num_images=2, best_of=6)
    free = finished(engine_of(epsilon_bundle, judge=Brightest()), asked)
    crowded = finished(
        engine_of(epsilon_bundle, judge=Brightest(), seats=seats), asked, wish("b", num_images=2, scheduler="euler")
    )
    assert [image.seed for image in crowded.images] == [image.seed for image in free.images]
    assert [each.pruned_at for each in crowded.candidates] == [each.pruned_at for each in free.candidates]
    assert [each.score is None for each in crowded.candidates] == [each.score is None for each in free.candidates]


def test_seats_of_those_who_go_are_free_at_once(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, judge=Brightest(), seats=4)
    engine.submit(wish(num_images=1, best_of=4))
    free = []
    while not engine.idle:
        engine.wait_for_work(0.2)
        engine.step()
        free.append(engine.free_seats)
    assert free == [0, 0, 0, 2, 2, 4]


def test_progress_counts_those_who_stay(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, judge=Brightest())
    engine.submit(wish(num_images=1, best_of=4))
    told = [event.step for event in drain(engine) if isinstance(event, Progress)]
    assert told == [1, 2, 3, 4, 5, 6]


def test_a_reproducible_picture_of_many_is_the_one_drawn_alone(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, judge=Brightest())
    [kept] = finished(engine, wish(num_images=1, best_of=4, reproducible=True)).images
    again = finished(engine_of(epsilon_bundle), wish(num_images=1, reproducible=True, seed=kept.seed))
    assert np.array_equal(kept.pixels, again.images[0].pixels)


@pytest.mark.parametrize(("steps", "best_of", "num_images"), [(1, 4, 1), (6, 2, 2), (6, None, 2)])
def test_nothing_is_given_up_where_nothing_would_be_saved(
    epsilon_bundle: Bundle, steps: int, best_of: int | None, num_images: int
) -> None:
    asked = wish(num_images=num_images, best_of=best_of, num_inference_steps=steps, expect=("a red circle",))
    drawn = finished(engine_of(epsilon_bundle, judge=Brightest()), asked)
    assert [each.pruned_at for each in drawn.candidates] == [None] * (best_of or num_images)
    assert all(each.score is not None for each in drawn.candidates)
    assert len(drawn.images) == num_images


def test_what_fits_too_badly_is_drawn_again_from_the_next_seeds(
    epsilon_bundle: Bundle, alone: dict[int, np.ndarray]
) -> None:
    levels = [brightness(alone[seed]) / 255 for seed in range(7, 10)]
    second_best = sorted(levels)[1]
    first_to_do = next(k for k, level in enumerate(levels) if level >= second_best - 1e-4)
    asked = wish(num_images=1, expect=("x",), min_probability=second_best - 1e-4)
    drawn = finished(engine_of(epsilon_bundle, judge=Brightest()), asked)
    assert len(drawn.candidates) == first_to_do + 1
    assert [image.index for image in drawn.images] == [first_to_do]
    said = " ".join(drawn.warnings)
    assert ("drawn from the seeds after" in said) == (first_to_do > 0)
    assert "which is the most" not in said


def test_the_best_of_what_is_drawn_is_kept_where_nothing_fits(epsilon_bundle: Bundle) -> None:
    drawn = finished(engine_of(epsilon_bundle, judge=Brightest()), wish(num_images=2, min_probability=1.0))
    assert len(drawn.candidates) == 6
    ranked = sorted(drawn.candidates, key=lambda each: -each.score)
    assert [image.index for image in drawn.images] == [each.index for each in ranked[:2]]
    assert "4 more were drawn" in drawn.warnings[-2]
    assert drawn.warnings[-1].startswith("2 of 2 pictures fit what is expected with less than 1; 6 were drawn")


def test_estimates_that_cannot_be_judged_cost_no_picture(epsilon_bundle: Bundle) -> None:
    drawn = finished(engine_of(epsilon_bundle, judge=Brightest(broken=True)), wish(num_images=1, best_of=4))
    assert all(each.pruned_at is None and each.estimated_score is None for each in drawn.candidates)
    assert drawn.images[0].score == max(each.score for each in drawn.candidates)


def test_what_the_checker_flags_is_kept_only_where_there_is_nothing_else(epsilon_bundle: Bundle) -> None:
    def flags_the_brightest(pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().mean((1, 2, 3)) - limit

    asked = wish(num_images=1, best_of=2, num_inference_steps=1)
    scores = [each.score for each in finished(engine_of(epsilon_bundle, judge=Brightest()), asked).candidates]
    limit = sum(scores) / 2
    drawn = finished(engine_of(epsilon_bundle, judge=Brightest(), checker=flags_the_brightest), asked)
    assert [image.index for image in drawn.images] == [scores.index(min(scores))]


def test_a_canceled_one_lets_all_go(epsilon_bundle: Bundle) -> None:
    engine = engine_of(epsilon_bundle, judge=Brightest(), seats=4)
    engine.submit(wish(num_images=1, best_of=8))
    for _ in range(5):
        engine.step()
    engine.cancel("a")
    assert any(isinstance(event, Stopped) for event in drain(engine))
    assert engine.free_seats == 4


def test_more_to_keep_than_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="best_of must be at least num_images"):
        wish(num_images=3, best_of=2)


@pytest.mark.parametrize(("steps", "reproducible"), [(5, True), (8, True), (9, False)])
def test_frames_of_those_who_left_hold_nobody_up(epsilon_bundle: Bundle, steps: int, reproducible: bool) -> None:
    """A job's last open sample is given up while frames of it wait to be decoded: those are dropped, not missed."""
    engine = engine_of(epsilon_bundle, judge=Brightest(), seats=2)
    engine.submit(wish("long", num_inference_steps=steps))
    frames = Trajectory(decode="vae")
    engine.submit(wish("a", num_images=1, best_of=2, seed=7, trajectory=frames, reproducible=reproducible))
    for k in range(12):
        engine.submit(wish(f"b{k}", num_inference_steps=1 + k % 3))
    assert all(isinstance(event, Finished) for event in last_events(drain(engine)).values())


class Late:
    """An event of the device that comes when the test says so."""

    has_come = False

    def query(self) -> bool:
        return Late.has_come

    def synchronize(self) -> None:
        Late.has_come = True


def test_who_is_given_up_while_another_job_ends_takes_no_further_step(
    epsilon_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seat is somebody else's already."""
    to_host = selection.to_host
    monkeypatch.setattr(selection, "to_host", lambda tensor: (to_host(tensor)[0], Late()))
    engine = engine_of(epsilon_bundle, judge=Brightest(), seats=5)
    finished, take_step = engine._selection.finished, Engine._take_step

    def ending(job: Job, now: float) -> Finished | None:
        Late.has_come = True
        try:
            return finished(job, now)
        finally:
            Late.has_come = False

    def stepping(self: Engine, lane: Lane, samples: Sequence[Sample]) -> Any:
        assert all(sample.is_seated for sample in samples)
        assert len({sample.run.seat for sample in samples}) == len(samples)
        return take_step(self, lane, samples)

    monkeypatch.setattr(engine._selection, "finished", ending)
    monkeypatch.setattr(Engine, "_take_step", stepping)
    engine.submit(wish("b", num_images=1, best_of=4, num_inference_steps=10))
    engine.submit(wish("a", num_images=1, num_inference_steps=6, min_probability=1.0, expect=("x",)))
    assert all(isinstance(event, Finished) for event in last_events(drain(engine)).values())
