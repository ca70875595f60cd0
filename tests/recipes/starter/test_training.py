"""Time, averages, checkpoints: what every training shares."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from recipes.starter import diffusion
from recipes.starter.replicas import Replicas
from recipes.starter.train_judges import _same
from recipes.starter.training import (
    FLOOR,
    HEARD_WITHIN,
    WARM_UP_STEPS,
    Average,
    Budget,
    Progress,
    Trainer,
    add_arguments,
    parse,
)
from tests.recipes.starter.conftest import options


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def trained(clock: Clock, budget: Budget, seconds: float) -> None:
    clock.seconds += seconds
    budget.tick(8)


def test_a_call_ends_after_its_minutes_and_the_next_goes_on() -> None:
    clock, progress = Clock(), Progress()
    first = Budget(minutes=1, total=3, progress=progress, now=clock)
    trained(clock, first, 59)
    assert not first.spent
    trained(clock, first, 1)
    assert first.spent
    assert first.share == pytest.approx(1 / 3)
    clock.seconds += 10_000
    second = Budget(minutes=5, total=3, progress=Progress(**vars(progress)), now=clock)
    assert second.share == pytest.approx(1 / 3)
    trained(clock, second, 119)
    assert not second.spent
    trained(clock, second, 2)
    assert second.spent, "all calls together have had their time"
    assert second.progress == Progress(steps=4, samples=32, seconds=pytest.approx(181))


def test_the_rate_rises_stays_and_falls() -> None:
    clock, progress = Clock(), Progress()
    budget = Budget(minutes=10, total=10, progress=progress, now=clock)
    assert budget.rate < 0.01
    progress.steps = WARM_UP_STEPS
    assert budget.rate == 1.0
    rates = []
    for _ in range(10):
        trained(clock, budget, 60)
        rates.append(budget.rate)
    assert rates[:3] == [1.0, 1.0, 1.0]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(FLOOR)


def test_steps_end_a_training_too() -> None:
    budget = Budget(minutes=10, total=10, progress=Progress(), steps=2, now=Clock())
    budget.tick(1)
    assert not budget.spent
    budget.tick(1)
    assert budget.spent


def test_an_average_follows_fast_at_first_and_swaps_back() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    average = Average([weight], decay=0.9)
    with torch.no_grad():
        weight.fill_(1.0)
    average.update(0)
    assert average.values[0].tolist() == pytest.approx([11 / 12] * 3)
    average.swap()
    assert weight.tolist() == pytest.approx([11 / 12] * 3)
    average.swap()
    assert weight.tolist() == [1.0] * 3
    for _ in range(3):
        average.update(10_000)
    assert average.values[0].tolist() == pytest.approx([1 - (1 / 12) * 0.9**3] * 3)


def trainer(folder: Path, *, resume: bool = False, steps: int = 60) -> tuple[Trainer, torch.nn.Linear]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    made = options(folder, resume=resume, steps=steps)
    return Trainer(folder / "run", {"model": model}, learning_rate=0.05, decay=0.9, options=made), model


def take_steps(run: Trainer, model: torch.nn.Linear) -> None:
    chance = torch.Generator().manual_seed(run.progress.steps)
    while run.going_on:
        x = torch.randn(8, 4, generator=chance)
        run.step((model(x) - x[:, :2]).square().mean(), 8)


def test_a_training_in_two_calls_has_learnt_and_counted_both(tmp_path: Path) -> None:
    run, model = trainer(tmp_path, steps=60)
    take_steps(run, model)
    run.finish()
    again, same = trainer(tmp_path, resume=True, steps=120)
    assert again.progress.steps == 60
    assert torch.equal(again.average.values[0], model.weight), "finish left the average in the model"
    assert again.optimizer.state_dict()["state"][0]["step"] == 60
    take_steps(again, same)
    again.finish()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [50, 60, 100, 120]
    assert lines[-1]["samples"] == 120 * 8
    assert lines[-1]["loss"] < lines[0]["loss"] * 0.8


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train without --resume"):
        trainer(tmp_path, resume=True)


def test_a_checkpoint_is_old_or_new_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model = trainer(tmp_path, steps=5)
    take_steps(run, model)
    run.save()
    kept = (tmp_path / "run" / "state.pt").read_bytes()

    def disk_is_full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_is_full)
    with pytest.raises(OSError, match="No space"):
        run.save()
    assert (tmp_path / "run" / "state.pt").read_bytes() == kept


@pytest.mark.parametrize("heard_at", [None, HEARD_WITHIN - 1])
def test_weights_without_gradients_end_the_training(tmp_path: Path, heard_at: int | None) -> None:
    """As with a compiler that drops them. A widened network hears late and may."""
    run, model = trainer(tmp_path, steps=HEARD_WITHIN + 5)
    model.weight.register_hook(lambda gradient: None if run.progress.steps == heard_at else torch.zeros_like(gradient))
    if heard_at is None:
        with pytest.raises(FloatingPointError, match=r"reached 1 of 2 weights in 100 steps, weight among them"):
            take_steps(run, model)
    else:
        take_steps(run, model)
        assert run.progress.steps == HEARD_WITHIN + 5


@pytest.mark.parametrize(("given", "refused"), [(["--compile", "--bfloat16"], True), (["--compile"], False)])
def test_what_would_train_nothing_is_refused(
    given: list[str], refused: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--device", "cpu", "--no-bfloat16", *given])
    parser = argparse.ArgumentParser()
    add_arguments(parser, minutes=1, rows=1)
    if refused:
        with pytest.raises(SystemExit, match="2"):
            parse(parser)
        assert "leave most weights without gradients" in capsys.readouterr().err
    else:
        assert parse(parser).compile


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    run, model = trainer(tmp_path, steps=50)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower rate"):
        take_steps(run, model)


class Line:
    """The least that has modules: a line through the origin."""

    def __init__(self) -> None:
        self.modules = {"line": torch.nn.Linear(2, 1, bias=False)}


def test_a_batch_in_parts_has_the_gradient_of_the_whole() -> None:
    model, x = Line(), torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    line = model.modules["line"]

    def loss_of(model: Line, part: torch.Tensor) -> torch.Tensor:
        return (model.modules["line"](part) - 1).square().mean()

    whole = loss_of(model, x)
    [expected] = torch.autograd.grad(whole, [line.weight])
    replicas = Replicas(model, 3)
    loss = replicas.backward(loss_of, x.chunk(3))
    assert loss.item() == pytest.approx(whole.item())
    assert torch.allclose(line.weight.grad, expected, atol=1e-6)
    with torch.no_grad():
        line.weight.fill_(0.5)
    replicas.spread()
    assert [copy.modules["line"].weight.tolist() for copy in replicas.models] == [[[0.5, 0.5]]] * 3
    again = replicas.backward(loss_of, [x[:2]] * 3)
    assert again.item() == pytest.approx(loss_of(model, x[:2]).item())
    replicas.close()


def test_noise_follows_diffusers_scheduler() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(**diffusion.SCHEDULE, prediction_type="v_prediction")
    x_0, eps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    t = torch.tensor([0, 400, 999])
    found = diffusion.noise(x_0, t, eps, diffusion.alphas_cumprod())
    assert torch.allclose(found.x_t, scheduler.add_noise(x_0, eps, t), atol=1e-5)
    assert torch.allclose(found.v, scheduler.get_velocity(x_0, eps, t), atol=1e-5)
    assert found.weight[2] == 1.0
    assert found.weight[0] < 0.01


def test_timesteps_cover_the_schedule_and_lean_to_noise() -> None:
    t = diffusion.draw_timesteps(4000, torch.Generator().manual_seed(0))
    assert t.min() == 0
    assert t.max() >= 998
    assert 520 < t.float().mean() < 590


def test_equal_captions_share_their_pictures() -> None:
    shared = _same(["a cat", "a dog", "a cat"], torch.device("cpu"))
    assert shared.tolist() == [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]
