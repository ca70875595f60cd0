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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Before:
    """What a sample has behind it when a pass of it begins: `index`, its place in its job; `ended`, the latents that
    each pass before ended with, float32 on the device; and its `generator`, as these left it."""

    index: int
    ended: Sequence[torch.Tensor]
    generator: torch.Generator


def _as_it_is(of: Pass, before: Before) -> Pass:
    return of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Pass:
    """One denoising run of a sample.

    `guidance` counts where the rows are guided. `cache_interval`: every so many evaluations are of the whole
    denoiser, the others of its outermost layers (deep.py); above 1 for a DeepDenoiser only. `complete` is called when
    the pass is to begin, before its start draws: with the pass itself, and what the sample has behind it. It answers
    with the pass as it begins, and may change everything but the solver. `stage`: what it is called where progress is
    told. `is_shown`: previews are made of its latents; by themselves, of those of the last pass. `found`: vectors [n]
    on the device that belong to the picture's record, by their names there.
    """

    denoiser: Denoiser
    rows: Rows
    solver: SolverFactory
    latent_shape: LatentShape
    guidance: Guidance = NO_GUIDANCE
    sides: Sequence[Side] = ()
    cache_interval: int = 1
    start: Start = from_noise
    complete: Callable[[Pass, Before], Pass] = _as_it_is
    stage: str | None = None
    is_shown: bool | None = None
    found: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def evaluations(self) -> int:
        """Model calls that it takes."""
        return self.solver.evaluations

    def guidance_at(self, evaluation: int) -> Guidance | None:
        """Of that evaluation; None where it takes one row."""
        is_guided = self.rows.is_guided and self.guidance.is_asked(evaluation, self.evaluations)
        return self.guidance if is_guided else None

    def lane_key(self, rows: Rows, mode: Mode) -> LaneKey:
        """Of a sample with these rows."""
        return LaneKey(self.denoiser, self.latent_shape, rows.shapes, mode)
