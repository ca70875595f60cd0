"""The job that a request becomes, and its samples: one picture being denoised, and every question about it.

Knows its seat and its solver. Knows nothing of batches and clocks.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from worker.engine.denoise import Turn
from worker.engine.events import Finished, Timings
from worker.engine.lane import Lane
from worker.engine.noise import normal_noise
from worker.engine.request import Request
from worker.engine.rows import Conditioning, Mode
from worker.engine.solver import Recipe, Solver
from worker.engine.table import ESTIMATE

TILED = (
    "There was not enough memory to decode a whole picture at once: it was decoded in overlapping tiles, "
    "which can differ a little in brightness."
)


@dataclass(slots=True, eq=False)
class Job:
    """A request between submit and its last event. `samples` holds those that have, or had, a seat."""

    request: Request
    submitted_at: float
    recipe: Future[Recipe]
    is_canceled: bool = False
    is_over: bool = False
    conditioning: Conditioning | None = None
    samples: list[Sample] = field(default_factory=list)
    reported_step: int = 0
    seconds_encoding: float = 0.0
    seconds_denoising: float = 0.0
    seconds_decoding: float = 0.0

    @property
    def waiting(self) -> int:
        """Samples that have not yet had a seat."""
        return self.request.num_images - len(self.samples)

    @property
    def is_ready(self) -> bool:
        """Its solver is compiled."""
        return self.recipe.done()

    @property
    def open_samples(self) -> int:
        """Samples that hold a seat or wait for one."""
        return self.waiting + sum(not sample.is_finished for sample in self.samples)

    @property
    def step(self) -> int:
        """Model evaluations that every sample has behind it."""
        return 0 if self.waiting else min(sample.evaluation for sample in self.samples)

    @property
    def evaluations(self) -> int:
        """Of the model for each sample; the job must have one."""
        return self.samples[0].evaluations

    def warnings(self) -> list[str]:
        """What whoever asked should know of the pictures."""
        tiled = [TILED] if any(sample.is_tiled for sample in self.samples) else []
        return [*(self.conditioning.warnings if self.conditioning else ()), *tiled]

    def finished(self, now: float) -> Finished:
        """The event of a job whose samples all have their pictures."""
        wall = now - self.submitted_at
        return Finished(
            self.request.id,
            pictures=[sample.picture for sample in self.samples if sample.picture is not None],
            seeds=[sample.seed for sample in self.samples],
            steps=self.evaluations,
            timings=Timings(self.seconds_encoding, self.seconds_denoising, self.seconds_decoding, wall),
            warnings=self.warnings(),
            solver=self.recipe.result(timeout=0).description,
            rescued=[sample.index for sample in self.samples if sample.is_rescue],
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Sample:
    """One picture on its way: denoised evaluation by evaluation, then decoded. It keeps its seat until it is decoded.

    Its latents are in the registers of its seat, float32 on the device, and move in place.
    """

    job: Job
    index: int
    lane: Lane
    seat: int
    solver: Solver
    generator: torch.Generator
    evaluation: int = 0
    picture: np.ndarray | None = None
    is_seated: bool = True
    is_tiled: bool = False
    _noise: torch.Tensor | None = None

    @property
    def seed(self) -> int:
        return self.job.request.seed + self.index

    @property
    def rows(self) -> int:
        """Lines it takes in the UNet's batch."""
        return 2 if self.job.request.is_guided else 1

    @property
    def is_rescue(self) -> bool:
        """Its second and last chance, after NaN."""
        return self.lane.key.mode is Mode.RESCUE

    @property
    def evaluations(self) -> int:
        return self.solver.table.evaluations

    @property
    def remaining(self) -> int:
        return self.evaluations - self.evaluation

    @property
    def is_denoised(self) -> bool:
        return self.remaining == 0

    @property
    def is_finished(self) -> bool:
        return self.picture is not None

    @property
    def latents(self) -> torch.Tensor:
        """As they stand, float32 [C, h, w] on the device."""
        return self.solver.latents(self.lane.registers(self.seat))

    @property
    def estimate(self) -> torch.Tensor:
        """The latents of the finished picture as the model saw it in the last evaluation (x0), float32 [C, h, w]."""
        return self.lane.registers(self.seat)[ESTIMATE]

    def turn(self) -> Turn:
        """What it brings to its next evaluation. May be asked again before `advance`, and is the same then."""
        table, i, request = self.solver.table, self.evaluation, self.job.request
        if table.draws[i] and self._noise is None:
            self._noise = normal_noise(self.lane.key.latent_shape, self.generator)
        return Turn(
            seat=self.seat,
            is_guided=request.is_guided,
            input_scale=float(table.input_scale[i]),
            timestep=float(table.timesteps[i]),
            block=table.block(i, request.guidance_scale if request.is_guided else 1.0),
            noise=self._noise,
        )

    def advance(self) -> None:
        """The step with its turn has been taken."""
        self._noise = None
        self.solver.settle(self.lane.registers(self.seat), self.evaluation, self.generator)
        self.evaluation += 1

    def leave(self) -> None:
        """Give up the seat. The picture stays."""
        if self.is_seated:
            self.is_seated = False
            self.lane.leave(self.seat)
