"""A pass under way: the seat that a sample has for it, the solver on that seat, and the chance it was begun with.

Knows seats, solvers and generators. Knows no samples, and not which evaluation is next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engine.lane import Lane
from worker.engine.lanes import Lanes
from worker.engine.noise import normal_noise
from worker.engine.passes import Before, Pass
from worker.engine.rows import Mode
from worker.engine.snapshot import Standing, Unfit
from worker.engine.solver import Solver
from worker.engine.transfer import fill, to_device


@dataclass(slots=True, eq=False, repr=False)
class Run:
    """What a sample has of a pass. `began` is the state of its generator before the pass began: from there the same
    start comes again."""

    of: Pass
    lane: Lane
    seat: int
    solver: Solver
    keeps: bool
    """Something of a picture stays as it is."""
    began: torch.Tensor
    ahead: torch.Tensor | None = None
    """The generator's state before the noise that it has drawn for the next evaluation; None where it has drawn none.
    """

    @classmethod
    def begin(cls, following: Pass, before: Before, mode: Mode, lanes: Lanes) -> Run:
        """Take a seat and fill it. Takes none if anything of that raises."""
        began, generator = before.generator.get_state(), before.generator
        of = following.complete(following, before)
        solver = of.solver.solver()
        begun = of.start(of.latent_shape, generator, solver)
        latents, rows = to_device(begun.latents, of.denoiser.device), of.rows.with_both(begun.rows)
        lane, seat = lanes.seated(
            of.lane_key(rows, mode),
            lambda lane: lane.take_seat(rows, begun.keep, of.sides, keeps_deep=of.cache_interval > 1),
        )
        run = cls(of, lane, seat, solver, begun.keep is not None, began)
        try:
            solver.begin(run.registers, latents, begun.keep)
            run.draw(0, generator)
        except Exception:
            lane.leave(seat)
            raise
        return run

    @property
    def registers(self) -> torch.Tensor:
        return self.lane.registers(self.seat)

    def draw(self, evaluation: int, generator: torch.Generator) -> None:
        """The noise that the solver adds at that evaluation, if it adds any: ahead of it, for it takes time."""
        self.ahead = None
        if evaluation < self.of.evaluations and self.solver.table.draws[evaluation]:
            self.ahead = generator.get_state()
            self.lane.send_noise(self.seat, normal_noise(self.of.latent_shape, generator))

    def standing(self, evaluation: int, generator: torch.Generator, *, needs_deep: bool) -> Standing:
        """What is on its seat before that evaluation, and cannot be made again: as it is on the device, which may still
        be computing it. Raises NotPlain."""
        return Standing(
            evaluation=evaluation,
            registers=self.registers[: self.solver.table.registers],
            solver=self.solver.state(),
            chance=generator.get_state() if self.ahead is None else self.ahead,
            deep=self.lane.deep(self.seat) if needs_deep else None,
        )

    def resume(self, standing: Standing, generator: torch.Generator) -> None:
        """Put that onto the seat of a pass that has just begun. Raises Unfit."""
        registers, given = self.registers[: self.solver.table.registers], standing.registers
        if registers.shape != given.shape or given.dtype != registers.dtype:
            raise Unfit(f"its registers are {_said(given)}, and not {_said(registers)}")
        if standing.evaluation > self.of.evaluations:
            raise Unfit(f"its pass has {standing.evaluation} evaluations behind it, of {self.of.evaluations}")
        fill(registers, given)
        self.solver.resume(standing.solver)
        if standing.deep is not None:
            self._put_deep(standing.deep)
        generator.set_state(standing.chance)
        self.draw(standing.evaluation, generator)

    def _put_deep(self, given: torch.Tensor) -> None:
        deep = self.lane.deep(self.seat)
        if deep is None or deep.shape != given.shape or deep.dtype != given.dtype:
            raise Unfit("its deep features are of another network")
        fill(deep, given)


def _said(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
