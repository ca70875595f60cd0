"""What only some samples have: they share a lane and a step with those who have none, and cost nothing where nobody
has."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from worker.engine.denoise import Plan, StaticStep, StepInput, Used
from worker.engine.guidance import Guidance
from worker.engine.rows import LaneKey, LatentShape, Rows, Some
from worker.engine.table import BLOCK, CONDITIONAL

SHAPE: LatentShape = (4, 2, 2)
MOST = 4


class Summing(torch.nn.Module):
    """Answers with its latents and, on top, the sum of what the row has of `weights`; keeps what it was called with."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Mapping[str, torch.Tensor]] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self.calls.append(rows)
        return x + rows["weights"].sum(1).view(-1, 1, 1, 1) if "weights" in rows else x

    def in_float32(self) -> Summing:
        return self

    def row_bytes(self, latent_shape: LatentShape) -> float:
        return 1.0


def rows_of(*weights: float) -> Rows:
    """Of a guided sample with so many weights; none for none."""
    values = torch.zeros(MOST)
    values[: len(weights)] = torch.tensor(weights)
    context = {"context": torch.zeros(1)}
    return Rows(context, context, {"weights": Some(values, len(weights))} if weights else {})


def step_input(seat: int, rows: Rows) -> StepInput:
    """Whose solver keeps the conditional output."""
    block = torch.zeros(*BLOCK)
    block[0, CONDITIONAL] = 1
    guidance = Guidance(scale=2.0) if rows.is_guided else None
    used = {name: some.used for name, some in rows.some.items()}
    return StepInput(seat=seat, guidance=guidance, input_scale=1.0, timestep=1.0, block=block.numpy(), used=used)


def step_with(*seated: Rows) -> StaticStep:
    step = StaticStep(Summing(), seats=3, latent_shape=SHAPE, conditioning={"context": torch.Size((1,))})
    for seat, rows in enumerate(seated, 1):
        step.keep(seat, rows)
    return step


def take(step: StaticStep, *seated: Rows) -> tuple[Used, Mapping[str, torch.Tensor]]:
    """One step of them all. What of `used` it took, and what the denoiser was given."""
    inputs = [step_input(seat, rows) for seat, rows in enumerate(seated, 1)]
    plan = Plan(inputs, rows=2 * len(inputs), samples=len(inputs))
    step(*plan.on(torch.device("cpu")), plan.used)
    assert isinstance(step.denoiser, Summing)
    return plan.used, step.denoiser.calls[-1]


def test_samples_with_and_without_share_a_lane() -> None:
    keys = {LaneKey(denoiser, SHAPE, rows.shapes) for denoiser in [Summing()] for rows in (rows_of(), rows_of(1.0))}
    assert len(keys) == 1


def test_where_nobody_has_any_the_denoiser_is_not_given_the_name() -> None:
    step = step_with(rows_of(1.0), rows_of())
    inputs = [step_input(2, rows_of())]
    plan = Plan(inputs, rows=2, samples=1)
    step(*plan.on(torch.device("cpu")), plan.used)
    assert plan.used == ()
    assert step.denoiser.calls[-1].keys() == {"context"}  # type: ignore[union-attr]


def test_rows_are_given_as_much_as_the_one_with_the_most_has() -> None:
    seated = rows_of(1.0), rows_of(), rows_of(2.0, 3.0)
    used, given = take(step_with(*seated), *seated)
    assert used == (("weights", 2),)
    # Conditional rows first, then the unconditional ones.
    assert given["weights"].tolist() == 2 * [[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]]


def test_both_rows_get_their_own_and_the_neighbour_no_bit_of_it() -> None:
    seated = rows_of(5.0), rows_of()
    step = step_with(*seated)
    take(step, *seated)
    assert step.state[1, 0].unique().tolist() == [5.0]
    assert step.state[2, 0].unique().tolist() == [0.0]


@pytest.mark.parametrize("following", [rows_of(), rows_of(7.0)], ids=["nothing", "less"])
def test_who_takes_a_seat_finds_nothing_of_whoever_had_it(following: Rows) -> None:
    step = step_with(rows_of(1.0, 2.0, 3.0))
    step.keep(1, following)
    expected = following.some["weights"].values if following.some else torch.zeros(MOST)
    assert torch.equal(step.some["weights"][1], expected)
