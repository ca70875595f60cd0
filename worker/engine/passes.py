"""Passes: a picture is one or more denoising runs, one after the other.

A pass says with which network, on which rows, by which solver, from what start, and what stays of a picture. Data,
which a family makes of a request. Knows no seats and no batches, and not what the latents mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from worker.engine.guidance import NO_GUIDANCE, Guidance
from worker.engine.keep import Keep
from worker.engine.noise import normal_noise
from worker.engine.rows import Denoiser, LaneKey, LatentShape, Mode, Rows
from worker.engine.sides import Side
from worker.engine.solver import Solver, SolverFactory


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Begun:
    """A sample before its first evaluation: its `latents`, float32 [C, h, w]; what its rows have beside those of its
    pass, by the denoiser's names; and what it is to `keep` of a picture."""

    latents: torch.Tensor
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    keep: Keep | None = None


Start = Callable[[LatentShape, torch.Generator, Solver], Begun]
"""Begins a sample, for the solver that will take it from there. Draws from the sample's generator before anybody else
does, in the order of the stock pipeline."""


def from_noise(latent_shape: LatentShape, generator: torch.Generator, solver: Solver) -> Begun:
    return Begun(normal_noise(latent_shape, generator) * solver.table.init_noise_sigma)


def _as_it_is(following: Pass, latents: torch.Tensor, generator: torch.Generator) -> Pass:
    return following


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Pass:
    """One denoising run of a sample.

    `guidance` counts where the rows are guided. `complete` is called for every pass but the first, when the one
    before it is over: with the pass itself, the latents that the one before ended with, float32 on the device, and the
    sample's generator. It answers with the pass as it begins, and may change everything but the solver.
    """

    denoiser: Denoiser
    rows: Rows
    solver: SolverFactory
    latent_shape: LatentShape
    guidance: Guidance = NO_GUIDANCE
    sides: Sequence[Side] = ()
    start: Start = from_noise
    complete: Callable[[Pass, torch.Tensor, torch.Generator], Pass] = _as_it_is

    @property
    def evaluations(self) -> int:
        """Model calls that it takes."""
        return self.solver.evaluations

    def lane_key(self, rows: Rows, mode: Mode) -> LaneKey:
        """Of a sample with these rows."""
        return LaneKey(self.denoiser, self.latent_shape, rows.shapes, mode)
