"""Models that predict a variance as well, schedulers that read it, and ways that two networks share: as a scheduler by
itself would go them."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from worker.engine.compile import NotAffine, compile_table
from worker.engine.denoise import Plan, StaticStep, StepInput
from worker.engine.errors import GenerationFailed
from worker.engine.guidance import Guidance
from worker.engine.rows import Rows
from worker.engine.solver import Schedule, Solver, SolverFactory
from worker.engine.solvers import Solvers
from worker.engine.stepping import Beginning

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)
SCALE = 3.0


def _answer(x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """[B, 6, 4, 4] of [B, 3, 4, 4], timesteps [B] and conditions [B, 1]."""
    bent = torch.tanh(x * 1.5 + text[:, :, None, None]) + t[:, None, None, None] / 5000
    return torch.cat([bent, torch.sin(3 * bent)], 1)


class Network:
    dtype, device = torch.float32, CPU

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Any) -> torch.Tensor:
        return _answer(x, t, rows["text"])


def _schedule(scheduler: Any, steps: int = 6, **changes: Any) -> Schedule:
    given: dict[str, Any] = {"options": {"eta": 0.0}, "channels": 3, "predicts_variance": True}
    return Schedule(name="own", scheduler=scheduler, num_inference_steps=steps, **given | changes)


def _ours(solver: Solver, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Through the denoising step, in the company of somebody else."""
    step = StaticStep(Network(), seats=2, latent_shape=SHAPE, conditioning={"text": torch.Size((1,))})
    step.keep(2, Rows({"text": torch.ones(1)}, {"text": -torch.ones(1)}))
    solver.begin(step.state[2], latents)
    table = solver.table
    for i in range(table.evaluations):
        own = StepInput(2, Guidance(scale=SCALE), 1.0, float(table.timesteps[i]), table.block(i, SCALE))
        other = StepInput(1, None, 1.0, 77.0, table.block(i, 1.0))
        if table.draws[i]:
            step.noise[2] = torch.randn(SHAPE, generator=generator)
        flags = step(*Plan([other, own], rows=3, samples=2).on(CPU))
        assert flags.all()
        solver.after_step(step.state[2], i, generator)
    return solver.latents(step.state[2])


def _theirs(scheduler: Any, latents: torch.Tensor, generator: torch.Generator, *, steps: int = 6) -> torch.Tensor:
    """As UnCLIPPipeline and KandinskyV22Pipeline step: the guided output, and the variance of the conditional row."""
    scheduler.set_timesteps(steps)
    x = latents[None]
    for i, t in enumerate(scheduler.timesteps):
        u, c = (_answer(x, t[None].float(), torch.tensor([[text]])) for text in (-1.0, 1.0))
        m = torch.cat([u[:, :3] + SCALE * (c[:, :3] - u[:, :3]), c[:, 3:]], 1)
        following = scheduler.timesteps[i + 1] if i + 1 < len(scheduler.timesteps) else None
        more = {"prev_timestep": following} if isinstance(scheduler, diffusers.UnCLIPScheduler) else {}
        if vars(scheduler).get("variance_type") != "learned_range":
            m = m[:, :3]
        x = scheduler.step(m, t, x, generator=generator, return_dict=False, **more)[0]
    return x[0]


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(variance_type="learned_range", clip_sample_range=2.0),
        diffusers.UnCLIPScheduler(variance_type="learned_range"),
        diffusers.DDIMScheduler(clip_sample=False),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_variance_reaches_who_reads_it_and_nobody_else(scheduler: Any) -> None:
    """DDIM reads none: its table does not mind what lies in that register."""
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    solver = SolverFactory(_schedule(scheduler)).solver()
    ours = _ours(solver, latents, torch.Generator().manual_seed(2))
    theirs = _theirs(scheduler, latents, torch.Generator().manual_seed(2))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_scheduler_for_learned_variances_needs_a_model_that_predicts_one() -> None:
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    with pytest.raises(GenerationFailed, match="cannot take 6 steps"):
        Solvers().factory(_schedule(scheduler, predicts_variance=False)).result()


def test_a_table_that_needs_every_register_leaves_none_for_a_variance() -> None:
    pndm = diffusers.PNDMScheduler(skip_prk_steps=False)
    assert SolverFactory(_schedule(pndm, 8, predicts_variance=False)).table is not None
    assert SolverFactory(_schedule(pndm, 8)).table is None


def test_a_way_in_two_parts_is_the_way_in_one() -> None:
    """Karlo has another network for the last step of its super-resolution."""
    scheduler = diffusers.UnCLIPScheduler(variance_type="learned_range")
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    parts = [Beginning(end=5), Beginning(index=5)]
    factories = [SolverFactory(_schedule(scheduler, beginning=part)) for part in parts]
    assert [factory.evaluations for factory in factories] == [5, 1]
    for factory in factories:
        latents = _ours(factory.solver(), latents, generator)
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(latents, _theirs(scheduler, start, torch.Generator().manual_seed(2)), atol=1e-5)


def test_a_table_is_told_which_timestep_follows() -> None:
    """Unclipped and with a fixed variance, UnCLIPScheduler is affine. Left to itself it would step to t - 1."""
    scheduler = diffusers.UnCLIPScheduler(clip_sample=False)
    table = compile_table(scheduler, 6)
    assert table.draws == (True,) * 5 + (False,)
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    ours = _ours(SolverFactory(_schedule(scheduler)).solver(), latents, torch.Generator().manual_seed(2))
    theirs = _theirs(scheduler, latents, torch.Generator().manual_seed(2))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_clipping_is_no_table() -> None:
    with pytest.raises(NotAffine):
        compile_table(diffusers.UnCLIPScheduler(), 6)
