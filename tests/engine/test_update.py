"""What a step leaves out of its update changes no number: held against all of it, done for everybody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from worker.engine.compile import compile_table
from worker.engine.denoise import Plan, StaticStep, StepInput
from worker.engine.guidance import Guidance
from worker.engine.rows import LatentShape
from worker.engine.table import BLOCK, CONDITIONAL, NOISE, UNCONDITIONAL, Table
from worker.engine.update import ALL_OF_IT, Update

SHAPE: LatentShape = (4, 8, 8)
SEATS = 5


@pytest.fixture(scope="module")
def two_registers() -> Table:
    return compile_table(diffusers.DPMSolverMultistepScheduler(), 6)


@pytest.fixture(scope="module")
def drawing() -> Table:
    return compile_table(diffusers.EulerAncestralDiscreteScheduler(), 6)


class Mixing(torch.nn.Module):
    """A denoiser whose rows differ, and know nothing of each other."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Any) -> torch.Tensor:
        return torch.tanh(x.flip(1)) + rows["context"]


class Counting(TorchDispatchMode):
    """How many operations there were."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def step_in_use() -> StaticStep:
    """Every seat with latents, history, a context, and a picture of which a half stays, for whoever is asked."""
    chance = torch.Generator().manual_seed(0)
    denoiser: Any = Mixing()
    step = StaticStep(denoiser, seats=SEATS, latent_shape=SHAPE, conditioning={"context": torch.Size(SHAPE)})
    for buffer in (step.state, step.stays, step.noise, step.conditioning["context"]):
        buffer.copy_(torch.randn(buffer.shape, generator=chance))
    return step


def taken(*inputs: StepInput, of: Update | None = None, keeping: int | None = None) -> tuple[torch.Tensor, int, Update]:
    """The state after one step of them, the number of operations, and what the plan says is needed."""
    step, rows = step_in_use(), sum(each.rows for each in inputs)
    if keeping is not None:
        step.repainted[keeping, :, : SHAPE[1] // 2] = False
    plan = Plan(inputs, rows=rows, samples=len(inputs))
    with torch.no_grad(), Counting() as counting:
        flags = step(*plan.on(torch.device("cpu")), plan.used, update=of or plan.update)
    assert flags.all()
    return step.state, counting.operations, plan.update


def step_input(table: Table, seat: int, *, i: int = 3, guidance: float = 5.0, rescale: float = 0.0) -> StepInput:
    return StepInput(
        seat=seat,
        guidance=Guidance(scale=guidance, rescale=rescale) if guidance != 1 else None,
        input_scale=float(table.input_scale[i]),
        timestep=float(table.timesteps[i]),
        block=table.block(i, guidance),
    )


def keeping(given: StepInput, table: Table) -> StepInput:
    return replace(given, noise_levels=table.noise_levels(3))


def test_what_a_plain_sample_needs_is_little(two_registers: Table) -> None:
    state, operations, needed = taken(step_input(two_registers, 2))
    assert needed == Update((0, 1, CONDITIONAL, UNCONDITIONAL), rescales=False, keeps=False)
    all_of_it, more, _ = taken(step_input(two_registers, 2), of=ALL_OF_IT)
    assert torch.equal(state, all_of_it)
    assert operations < 0.7 * more


def test_without_guidance_there_is_no_second_output(two_registers: Table) -> None:
    state, _, needed = taken(step_input(two_registers, 2, guidance=1.0))
    assert UNCONDITIONAL not in needed.columns
    assert torch.equal(state, taken(step_input(two_registers, 2, guidance=1.0), of=ALL_OF_IT)[0])


def test_whoever_draws_gets_noise(drawing: Table) -> None:
    state, _, needed = taken(step_input(drawing, 1))
    assert NOISE in needed.columns
    assert torch.equal(state, taken(step_input(drawing, 1), of=ALL_OF_IT)[0])


def test_who_is_rescaled_and_who_keeps_are_served(two_registers: Table) -> None:
    rescaled = step_input(two_registers, 1, rescale=0.7)
    kept = keeping(step_input(two_registers, 3), two_registers)
    state, _, needed = taken(rescaled, kept, keeping=3)
    assert (needed.rescales, needed.keeps) == (True, True)
    assert torch.equal(state, taken(rescaled, kept, keeping=3, of=ALL_OF_IT)[0])
    plain = taken(step_input(two_registers, 1), step_input(two_registers, 3))[0]
    assert not torch.equal(state[3], plain[3])
    assert not torch.equal(state[1], plain[1])


def test_what_others_need_changes_no_bit(two_registers: Table, drawing: Table) -> None:
    alone = taken(step_input(two_registers, 2))[0]
    others = (
        step_input(drawing, 1),
        step_input(two_registers, 3, rescale=0.7),
        keeping(step_input(drawing, 4, guidance=1.0), drawing),
    )
    together, _, needed = taken(step_input(two_registers, 2), *others, keeping=4)
    assert needed == Update((0, 1, CONDITIONAL, UNCONDITIONAL, NOISE), rescales=True, keeps=True)
    assert torch.equal(together[2], alone[2])


def test_nobodys_step_is_a_step() -> None:
    """Of rows that only fill up."""
    blocks = np.zeros((2, *BLOCK), np.float32)
    assert Update.of(blocks, np.zeros(2, np.float32), keeps=False) == Update((CONDITIONAL,), False, False)
    step = step_in_use()
    plan = Plan((), rows=2, samples=2)
    with torch.no_grad():
        assert step(*plan.on(torch.device("cpu")), update=plan.update).all()
    assert not step.state[0].any()
