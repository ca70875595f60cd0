"""A request, the job that it becomes, and its samples: one picture being denoised, and every question about it.

Plain state. Knows nothing of batches, clocks or devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from worker.engine.events import Timings

if TYPE_CHECKING:
    import torch

    from worker.engine.encode import Conditioning
    from worker.engine.solver import Solver

MAX_SEED = 2**64 - 1
"""The largest seed that torch's generators take."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Request:
    """One job as the engine sees it. Raises ValueError for a value out of range the moment it is built.

    Sides are in pixels. Picture k is drawn from seed + k. `deadline` is a time of the engine's clock, in seconds.
    What depends on the model, such as its schedulers, is checked when the request takes a seat.
    """

    id: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    seed: int
    num_images: int
    deadline: float | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height", "num_inference_steps", "num_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise ValueError(f"guidance_scale must be a finite number of at least 0, not {self.guidance_scale}")
        if not 0 <= self.seed <= MAX_SEED - (self.num_images - 1):
            raise ValueError(f"seed must be 0 to 2^64 - num_images, not {self.seed}")
        if self.deadline is not None and math.isnan(self.deadline):
            raise ValueError("deadline must be a time or None, not NaN")

    @property
    def is_guided(self) -> bool:
        """At a scale of 1 the unconditional output cancels out; below, diffusers does without it as well."""
        return self.guidance_scale > 1


@dataclass(slots=True, eq=False)
class Job:
    """A request between submit and its last event. `samples` holds those that have, or had, a seat."""

    request: Request
    submitted_at: float
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

    def is_overdue(self, now: float) -> bool:
        return self.request.deadline is not None and self.request.deadline <= now

    def timings(self, now: float) -> Timings:
        wall = now - self.submitted_at
        return Timings(self.seconds_encoding, self.seconds_denoising, self.seconds_decoding, wall)


@dataclass(slots=True, eq=False, kw_only=True)
class Sample:
    """One picture on its way: denoised evaluation by evaluation, then decoded. It keeps its seat until it is decoded.

    `latents` are float32 [1, C, h, w] on the device, whatever the model's own type: solvers lose up to 6 % of the
    standard deviation in bfloat16.
    """

    job: Job
    index: int
    solver: Solver
    conditioning: Conditioning
    generator: torch.Generator
    latents: torch.Tensor
    evaluation: int = 0
    picture: np.ndarray | None = None

    @property
    def seed(self) -> int:
        return self.job.request.seed + self.index

    @property
    def guidance_scale(self) -> float:
        return self.job.request.guidance_scale

    @property
    def is_guided(self) -> bool:
        return self.job.request.is_guided

    @property
    def rows(self) -> int:
        """Lines it takes in the UNet's batch."""
        return 2 if self.is_guided else 1

    @property
    def lane(self) -> tuple[int, ...]:
        """Samples of equal latent shape (C, h, w) may share a step."""
        return tuple(self.latents.shape[1:])

    @property
    def evaluations(self) -> int:
        return len(self.solver.timesteps)

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
    def timestep(self) -> torch.Tensor:
        """Of the next evaluation: float32 scalar on the device."""
        return self.solver.timesteps[self.evaluation]

    @property
    def model_input(self) -> torch.Tensor:
        """The latents as the model wants to see them next, [1, C, h, w]."""
        return self.solver.scale(self.latents, self.evaluation)

    def advance(self, model_output: torch.Tensor) -> None:
        """Take in the model's guided output, float32 [1, C, h, w]."""
        self.latents = self.solver.step(model_output, self.evaluation, self.latents, self.generator)
        self.evaluation += 1
