"""The job that a request becomes, and its samples: one picture being drawn each, and every question about it.

A sample walks the passes of its job, one after the other, on a seat of its own. Knows its seat and its solver. Knows
nothing of batches and clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from app.contract.messages.usage import Work
from worker.engine.deep import Depth, depth_at
from worker.engine.denoise import StepInput
from worker.engine.events import STAGES, DrawnImage, Finished, Progress, StageName, Timings
from worker.engine.family import Inputs, Prepared
from worker.engine.judging import Verdict
from worker.engine.lane import Lane
from worker.engine.lanes import Lanes
from worker.engine.passes import Before, Pass
from worker.engine.recording import NOTHING_KEPT, Recordings
from worker.engine.request import Request
from worker.engine.rows import Mode
from worker.engine.run import Run
from worker.engine.snapshot import Snapshot
from worker.engine.solver import SolverFactory
from worker.engine.table import ESTIMATE

READ_TILED = (
    "There was not enough memory to encode a whole picture at once: it was encoded in overlapping tiles, "
    "which can differ a little in brightness."
)
TILED = (
    "There was not enough memory to decode a whole picture at once: it was decoded in overlapping tiles, "
    "which can differ a little in brightness."
)


@dataclass(slots=True, eq=False)
class Job:
    """A request between submit and its last event. `samples` holds those that have, or had, a seat.

    `solvers` are those of its passes, in their order; `inputs` its pictures until they are encoded; `brought` is what
    its family brings for it, if anything; `snapshot` is what its samples go on from; `prepared` is set when the first
    sample takes a seat.
    """

    request: Request
    submitted_at: float
    solvers: Sequence[Future[SolverFactory]]
    inputs: Inputs
    brought: Sequence[Future[Any]] = ()
    snapshot: Snapshot | None = None
    is_canceled: bool = False
    is_to_park: bool = False
    """Somebody wants it out of the engine, with a snapshot."""
    is_to_snapshot: bool = False
    """Somebody wants a snapshot, and it goes on."""
    is_terminal: bool = False
    prepared: Prepared | None = None
    samples: list[Sample] = field(default_factory=list)
    reported_step: int = 0
    is_tiled: bool = False
    """One of its pictures was encoded in tiles."""
    wanted: int = 0
    """Samples to draw: as many as were asked for, and those that are drawn again from further seeds."""
    is_pruned: bool = False
    """The worse half of its samples has gone."""
    seconds: dict[StageName, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """As its Timings will have them."""
    work: Work = field(default_factory=Work)
    """All that was done for it, also for samples that were given up or began again."""

    def __post_init__(self) -> None:
        self.wanted = self.request.drawn

    @property
    def passes(self) -> Sequence[Pass]:
        """None before it is prepared."""
        return self.prepared.passes if self.prepared else ()

    @property
    def waiting(self) -> int:
        """Samples that have not yet had a seat."""
        return self.wanted - len(self.samples)

    @property
    def is_ready(self) -> bool:
        """Its solvers are compiled, and what it needs beside the model is there."""
        return all(each.done() for each in self.awaited)

    @property
    def is_to_leave(self) -> bool:
        """Whatever it still waits for."""
        return self.is_canceled or self.is_to_park

    @property
    def awaited(self) -> list[Future[Any]]:
        return [*self.solvers, *self.brought]

    @property
    def open_samples(self) -> int:
        """Samples that hold a seat or wait for one."""
        return self.waiting + sum(not sample.is_finished for sample in self.samples)

    @property
    def step(self) -> int:
        """Model evaluations that every sample has behind it."""
        return 0 if self.waiting else self._slowest.step

    @property
    def stage(self) -> str | None:
        """What the pass is called that the slowest sample is in."""
        return None if self.waiting else self._slowest.run.of.stage

    @property
    def _slowest(self) -> Sample:
        return min((each for each in self.samples if each.pruned_at is None), key=lambda sample: sample.step)

    @property
    def evaluations(self) -> int:
        """Of the model for each sample, in all passes."""
        return sum(each.evaluations for each in self.passes)

    def progress(self) -> Progress | None:
        """What is to be told, once, when every sample has come further."""
        if self.is_terminal or self.step <= self.reported_step:
            return None
        self.reported_step = self.step
        return Progress(self.request.id, self.step, self.evaluations, self.stage)

    def warnings(self) -> list[str]:
        """What whoever asked should know of the pictures."""
        read = [READ_TILED] if self.is_tiled else []
        drawn = [TILED] if any(sample.is_tiled for sample in self.samples) else []
        recordings = [sample.recordings for sample in self.samples if sample.recordings is not None]
        lost = [warning for each in recordings for warning in each.warnings]
        return [*(self.prepared.warnings if self.prepared else ()), *read, *drawn, *dict.fromkeys(lost)]

    def finished(self, now: float, kept: Sequence[Sample]) -> Finished:
        """The event of a job whose samples all have their pictures, of which some are `kept`."""
        wall = now - self.submitted_at
        return Finished(
            self.request.id,
            images=[sample.drawn(sample.picture) for sample in kept if sample.picture is not None],
            steps=self.evaluations,
            timings=Timings(**self.seconds, wall=wall),
            warnings=self.warnings(),
            solver=self.passes[-1].solver.description,
            drawn_with=self.prepared.drawn_with if self.prepared else {},
            work=self.work,
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Sample:
    """One picture on its way: denoised pass by pass, evaluation by evaluation; decoded; and seated until then.

    `index` is the picture's place in its job. Its latents are in the registers of its seat, float32 on the device, and
    move in place. `evaluation` counts in the pass under way.
    """

    job: Job
    index: int
    seed: int
    mode: Mode
    generator: torch.Generator
    run: Run
    number: int = 0
    """Of the pass under way, among the job's."""
    ended: list[torch.Tensor] = field(default_factory=list)
    """What each pass before it ended with, float32 on the device."""
    evaluation: int = 0
    picture: np.ndarray | None = None
    nsfw: bool | None = None
    estimated: Verdict | None = None
    """On its estimate, when the worse half of its job went."""
    verdict: Verdict | None = None
    """On its picture."""
    pruned_at: int | None = None
    """After so many evaluations it was not worth finishing."""
    is_seated: bool = True
    is_decoding: bool = False
    """Sent off to be decoded; the picture has not come yet."""
    is_tiled: bool = False
    recordings: Recordings | None = None
    """What its request keeps of it on the way, once its last pass has begun."""

    @property
    def lane(self) -> Lane:
        return self.run.lane

    @property
    def rows(self) -> int:
        """Lines it takes in the denoiser's batch at its next evaluation."""
        return 1 if self.run.of.guidance_at(self.evaluation) is None else 2

    @property
    def depth(self) -> Depth:
        """How much of the denoiser its next evaluation is of."""
        return depth_at(self.evaluation, interval=self.run.of.cache_interval, phase=self.seed)

    @property
    def cost(self) -> float:
        """Floating point operations of its next evaluation."""
        return self.lane.cost(self.rows, self.depth)

    @property
    def can_wait(self) -> bool:
        return self.job.request.priority == "batch"

    @property
    def is_rescue(self) -> bool:
        """Its second and last chance, after NaN."""
        return self.mode is Mode.RESCUE

    @property
    def step(self) -> int:
        """Model evaluations behind it, in all passes."""
        return sum(each.evaluations for each in self.job.passes[: self.number]) + self.evaluation

    @property
    def is_in_last_pass(self) -> bool:
        return self.number == len(self.job.passes) - 1

    @property
    def is_shown(self) -> bool:
        """Previews are made of the pass under way. What others before the last are about need not be pictures."""
        said = self.run.of.is_shown
        return self.is_in_last_pass if said is None else said

    @property
    def is_at_end_of_pass(self) -> bool:
        return self.evaluation == self.run.of.evaluations

    @property
    def is_denoised(self) -> bool:
        return self.is_at_end_of_pass and self.is_in_last_pass

    @property
    def is_finished(self) -> bool:
        return self.picture is not None or self.pruned_at is not None

    @property
    def latents(self) -> torch.Tensor:
        """As they stand, float32 [C, h, w] on the device."""
        return self.run.solver.latents(self.run.registers)

    @property
    def estimate(self) -> torch.Tensor:
        """The latents that the pass will end with, as the model last saw them (x0), float32 [C, h, w]."""
        return self.run.registers[ESTIMATE]

    def step_input(self) -> StepInput:
        """What it brings to its next evaluation. May be asked again before `advance`, and is the same then."""
        table, i, of = self.run.solver.table, self.evaluation, self.run.of
        guidance = of.guidance_at(i)
        return StepInput(
            seat=self.run.seat,
            guidance=guidance,
            input_scale=float(table.input_scale[i]),
            timestep=float(table.timesteps[i]),
            block=table.block(i, guidance.scale if guidance else 1.0),
            used={name: some.used for name, some in of.rows.some.items()},
            noise_levels=table.noise_levels(i) if self.run.keeps else None,
            sides=self.lane.asked(of.sides, i),
            depth=self.depth,
        )

    def advance(self) -> None:
        """The step with its input has been taken, or launched: the device may still be computing it."""
        self.run.solver.after_step(self.run.registers, self.evaluation, self.generator)
        self.evaluation += 1
        self.run.draw(self.evaluation, self.generator)

    def next_pass(self, lanes: Lanes) -> None:
        """Go over to the next pass: onto another seat, maybe in another lane. Sits nowhere if that raises."""
        # The seat, and the registers with it, will be another's.
        ended = [*self.ended, self.latents.clone()]
        before = Before(self.index, ended, self.generator)
        # First: where all sit in the lane of both passes, its own seat is the only free one.
        self.leave()
        self.run = Run.begin(self.job.passes[self.number + 1], before, self.mode, lanes)
        self.is_seated, self.ended, self.number, self.evaluation = True, ended, self.number + 1, 0

    def begin_recording(self) -> Recordings:
        """Of the first pass that is shown, before its first evaluation."""
        table, of = self.run.solver.table, self.run.of
        self.recordings = Recordings.of(
            self.job.request, table, of.latent_shape, first=self.step, makes_picture=self.is_in_last_pass
        )
        return self.recordings

    def leave(self) -> None:
        """Give up the seat. The picture stays."""
        if self.is_seated:
            self.is_seated = False
            self.lane.leave(self.run.seat)

    def prune(self, *, at: int | None) -> None:
        """Give up seat and picture, whether it has one already or not: what is said of it does not depend on that."""
        self.pruned_at, self.picture, self.verdict, self.recordings = at, None, None, None
        self.leave()

    def drawn(self, picture: np.ndarray) -> DrawnImage:
        verdict = self.verdict or Verdict(None, None)
        found = {name: vector.float().cpu().numpy() for name, vector in self.run.of.found.items()}
        return DrawnImage(
            picture,
            seed=self.seed,
            index=self.index,
            is_rescued=self.is_rescue,
            nsfw=self.nsfw,
            score=verdict.score,
            probability=verdict.probability,
            found=found,
            recordings=self.recordings or NOTHING_KEPT,
        )


def step_seconds(samples: Sequence[Sample]) -> float:
    """What a step of these is expected to take; 0 where nobody knows."""
    return sum(sample.lane.step_seconds(sample.rows, sample.depth) for sample in samples)


def jobs_of(samples: Sequence[Sample]) -> list[Job]:
    """Each once, in the order of their samples."""
    return list(dict.fromkeys(sample.job for sample in samples))
