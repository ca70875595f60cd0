"""Solvers: what turns the model's output into the next latents, for one sample and one number of steps.

A compiled solver is a table that the denoising step carries out by itself. What no table can do, such as clipping,
is done by a private copy of the diffusers scheduler, between two steps, behind the same interface.
Knows diffusers' scheduler interface. Knows nothing of prompts, guidance or neighbours.
"""

from __future__ import annotations

import inspect
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import astuple, dataclass, replace
from threading import Lock
from typing import Any, Protocol

import numpy as np
import structlog
import torch

from worker.engine.compile import NotAffine, compile_table
from worker.engine.errors import GenerationFailed, is_out_of_memory
from worker.engine.estimate import x0_coefficients
from worker.engine.keep import Keep, noised
from worker.engine.stepping import (
    FROM_NOISE,
    Beginning,
    arguments,
    at_steps,
    evaluated,
    reads_variance,
    rehearse,
    scaled,
    takes,
    understood,
)
from worker.engine.table import VARIANCE, Table

log = structlog.get_logger()

TABLES = 256
"""Compiled solvers that are remembered. One of fifty steps takes some 10 kB."""


NEAR = 5
"""How far from a number of steps that cannot be another one is looked for."""


NO_PICTURES = "This scheduler cannot start from a picture; take another one, such as ddim or euler."


class Solver(Protocol):
    """One sample's way from noise to latents, through the registers of its seat: float32 [registers + x0, C, h, w]."""

    table: Table

    def noised(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A picture's latents as noisy as they are to be before the first evaluation; all [C, h, w]. Raises
        GenerationFailed if this scheduler cannot start from a picture."""
        ...

    def begin(self, registers: torch.Tensor, latents: torch.Tensor, keep: Keep | None = None) -> None:
        """Fill the registers with the latents [C, h, w] before the first evaluation. `keep` is what stays of a picture
        after each: the step sees to that as far as the table says how."""
        ...

    def after_step(self, registers: torch.Tensor, i: int, generator: torch.Generator) -> None:
        """What the table leaves to do after evaluation i. Must be called once for each i, in order."""
        ...

    def latents(self, registers: torch.Tensor) -> torch.Tensor:
        """The latents as they stand, [C, h, w]."""
        ...


class TableSolver:
    """The table says it all."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def noised(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if self.table.noised is None:
            raise GenerationFailed(NO_PICTURES)
        a, s = self.table.noised[0].tolist()
        return noised(latents, noise, a, s)

    def begin(self, registers: torch.Tensor, latents: torch.Tensor, keep: Keep | None = None) -> None:
        registers.zero_()
        registers[0] = latents

    def after_step(self, registers: torch.Tensor, i: int, generator: torch.Generator) -> None:
        pass

    def latents(self, registers: torch.Tensor) -> torch.Tensor:
        return registers[0]


class ObjectSolver:
    """A private copy of a diffusers scheduler: right for any of them, at the price of many small kernels a step.

    Its table only passes on the model's guided output, into register 1; the model's next input is put into register 0.
    What the model says of the variance is in a register of its own, for those that read it.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._scheduler = schedule.prepared()
        self._begin_index = schedule.beginning.index
        self._timesteps = evaluated(self._scheduler, schedule.beginning)
        self._options = schedule.options
        self._reads_variance = reads_variance(self._scheduler)
        self._latents: torch.Tensor
        self._keep: Keep | None = None
        self.table = _pass_on(self._scheduler, self._timesteps, schedule.beginning)

    def noised(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if not hasattr(self._scheduler, "add_noise"):
            raise GenerationFailed(NO_PICTURES)
        return self._noised(latents, noise, self._timesteps[:1])

    def begin(self, registers: torch.Tensor, latents: torch.Tensor, keep: Keep | None = None) -> None:
        registers.zero_()
        self._keep = keep
        self._latents = latents[None]
        registers[0] = scaled(self._scheduler, self._latents, self._timesteps[0])[0]

    def after_step(self, registers: torch.Tensor, i: int, generator: torch.Generator) -> None:
        t, m = self._timesteps[i], registers[1:2].clone()
        if self._reads_variance:
            m = torch.cat([m, registers[VARIANCE : VARIANCE + 1]], 1)
        given = arguments(self._scheduler, self._options, self._begin_index + i, generator)
        self._latents = self._scheduler.step(m, t, self._latents, **given)[0]
        if self._keep is not None:
            self._latents = self._kept(self._keep, self._timesteps[i + 1 : i + 2])[None]
        if i + 1 < len(self._timesteps):
            registers[0] = scaled(self._scheduler, self._latents, self._timesteps[i + 1])[0]

    def latents(self, registers: torch.Tensor) -> torch.Tensor:
        return self._latents[0]

    def _kept(self, keep: Keep, following: torch.Tensor) -> torch.Tensor:
        """The latents with what stays, as noisy as at the `following` timestep; after the last there is none."""
        stays = self._noised(keep.latents, keep.noise, following) if len(following) else keep.latents
        return torch.where(keep.repainted, self._latents[0], stays)

    def _noised(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        noised: torch.Tensor = self._scheduler.add_noise(latents[None], noise[None], timestep)[0]
        return noised


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A diffusers scheduler at a number of steps, as a family asks for it. `name` is the request's word for it,
    `options` are what it is stepped with, `channels` those of the latents. The scheduler is copied, never stepped.

    `beginning` is another one where a pass starts from a picture. `predicts_variance`: the model does, in channels
    behind its output.
    """

    name: str
    scheduler: Any
    num_inference_steps: int
    options: Mapping[str, Any]
    channels: int
    beginning: Beginning = FROM_NOISE
    predicts_variance: bool = False

    def prepared(self) -> Any:
        """A copy of the scheduler with its timesteps set. They are on the CPU, wherever the picture is: where it stands
        among them is asked of their values. Raises what the scheduler raises for a number that it cannot take."""
        return at_steps(self.scheduler, self.num_inference_steps, beginning=self.beginning)

    @property
    def meaning(self) -> str:
        """The same for schedules that are solved alike."""
        config = dict(self.scheduler.config)
        steps = self.num_inference_steps, *astuple(self.beginning), self.predicts_variance
        return json.dumps([type(self.scheduler).__name__, config, dict(self.options), *steps], default=str)

    def rehearse(self) -> None:
        """Raises what the scheduler raises where it cannot bring a picture to its end."""
        rehearse(
            self.scheduler,
            self.num_inference_steps,
            self.options,
            channels=self.channels,
            predicts_variance=self.predicts_variance,
            beginning=self.beginning,
        )


class SolverFactory:
    """Makes the solvers of one schedule. Thread-safe.

    Raises whatever the scheduler raises if it cannot bring a picture to its end in so many steps.
    """

    def __init__(self, schedule: Schedule) -> None:
        scheduler, steps, beginning = schedule.scheduler, schedule.num_inference_steps, schedule.beginning
        options = understood(scheduler, schedule.options)
        self._schedule = schedule
        self.description = {"class": type(scheduler).__name__} | _said(scheduler) | options
        self.table: Table | None = None
        try:
            table = compile_table(scheduler, steps, options, beginning=beginning)
            if schedule.predicts_variance and table.registers > VARIANCE:
                raise NotAffine("the model's variance is in one of its registers")
            self.table, self.evaluations = table, table.evaluations
        except NotAffine as reason:
            # Rather than in the middle of somebody's picture.
            schedule.rehearse()
            self.evaluations = len(evaluated(schedule.prepared(), beginning))
            log.info("stepping a scheduler object", scheduler=type(scheduler).__name__, reason=str(reason))

    def solver(self) -> Solver:
        return ObjectSolver(self._schedule) if self.table is None else TableSolver(self.table)


class Solvers:
    """Schedules, compiled only once."""

    def __init__(self, compiler: Executor | None = None) -> None:
        self._compiler = compiler
        self._lock = Lock()
        self._known: OrderedDict[str, Future[SolverFactory]] = OrderedDict()

    def factory(self, schedule: Schedule) -> Future[SolverFactory]:
        """Compiled by the executor, or at once by the caller where there is none.

        The future raises GenerationFailed for a number of steps that this scheduler cannot take.
        """
        meaning = schedule.meaning
        with self._lock:
            known = self._known.get(meaning)
            future = self._known[meaning] = known or Future()
            self._known.move_to_end(meaning)
            if len(self._known) > TABLES:
                self._known.popitem(last=False)
        if known is None:
            run = _at_once if self._compiler is None else self._compiler.submit
            run(_compile, future, schedule)
        return future


def _compile(future: Future[SolverFactory], schedule: Schedule) -> None:
    try:
        future.set_result(SolverFactory(schedule))
    except Exception as error:
        future.set_exception(_refusal(schedule, error))


def _refusal(schedule: Schedule, error: Exception) -> Exception:
    """What whoever asked is told. A full memory says nothing about the scheduler, also while advice is sought."""
    if is_out_of_memory(error):
        return error
    try:
        advice = _advice(schedule)
    except Exception as full:
        return full
    reason = str(error).rstrip(".") or type(error).__name__
    refusal = GenerationFailed(
        f"The scheduler {schedule.name} cannot take {schedule.num_inference_steps} steps with this model "
        f"({reason}); {advice}."
    )
    refusal.__cause__ = error
    return refusal


def _advice(schedule: Schedule) -> str:
    """What would work instead: the nearest numbers of steps, as tried."""
    steps = schedule.num_inference_steps
    near = [steps + off for off in range(-NEAR, NEAR + 1) if off and steps + off > 0]
    # Which index is the same part of the way depends on the number of steps.
    way = replace(schedule.beginning, index=0, end=None)
    fit = [
        other
        for other in near
        if takes(
            schedule.scheduler,
            other,
            schedule.options,
            channels=schedule.channels,
            predicts_variance=schedule.predicts_variance,
            beginning=way,
        )
    ]
    nearest = sorted(sorted(fit, key=lambda other: abs(other - steps))[:2])
    return f"{' or '.join(map(str, nearest))} will do" if nearest else "take another scheduler"


def _at_once(call: Callable[..., None], *arguments: Any) -> None:
    call(*arguments)


def _said(scheduler: Any) -> dict[str, Any]:
    """The configuration as JSON has it: without what is diffusers' own or the class has no use for, and without
    infinities, which mean that there is no bound."""
    unsaid, used = (None, math.inf, -math.inf), inspect.signature(type(scheduler)).parameters
    return {name: value for name, value in scheduler.config.items() if name in used and value not in unsaid}


def _pass_on(scheduler: Any, evaluated: torch.Tensor, beginning: Beginning) -> Table:
    timesteps = evaluated.cpu().double().numpy().astype(np.float32)
    count, ones = len(timesteps), np.ones(len(timesteps), np.float32)
    matrices = np.zeros((count, 2, 4), np.float32)
    matrices[:, 1, 2] = 1
    return Table(
        matrices=matrices,
        estimates=x0_coefficients(scheduler, timesteps, ones, begin_index=beginning.index),
        input_scale=ones,
        timesteps=timesteps,
        draws=(False,) * count,
        init_noise_sigma=float(getattr(scheduler, "init_noise_sigma", 1.0)),
    )
