"""Solvers: what turns the model's output into the next latents, for one sample and one number of steps.

A compiled solver is a table that the denoising step carries out by itself. What no table can do, such as clipping,
is done by a private copy of the diffusers scheduler, between two steps, behind the same interface.
Knows diffusers' scheduler interface. Knows nothing of prompts, guidance or neighbours.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
import structlog
import torch

from worker.engine.compile import NotAffine, compile_table
from worker.engine.errors import GenerationFailed
from worker.engine.estimate import x0_coefficients
from worker.engine.keep import Keep, noised
from worker.engine.plain import changed
from worker.engine.stepping import (
    FROM_NOISE,
    Beginning,
    arguments,
    at_steps,
    evaluated,
    reads_variance,
    rehearse,
    scaled,
    understood,
)
from worker.engine.table import VARIANCE, Table
from worker.engine.transfer import to_device

log = structlog.get_logger()

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

    def state(self) -> dict[str, Any]:
        """What it knows beside the registers and its beginning: plain values, with the tensors themselves. Raises
        NotPlain."""
        ...

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from there: it has begun, and the registers have what they had."""
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

    def state(self) -> dict[str, Any]:
        return {}

    def resume(self, state: Mapping[str, Any]) -> None:
        pass


class ObjectSolver:
    """A private copy of a diffusers scheduler: right for any of them, at the price of many small kernels a step.

    Its table only passes on the model's guided output, into register 1; the model's next input is put into register 0.
    What the model says of the variance is in a register of its own, for those that read it.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._scheduler = schedule.prepared()
        self._at_first = dict(vars(self._scheduler))
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

    def state(self) -> dict[str, Any]:
        """The latents, and whatever of the scheduler has changed since it was prepared; lists change in place."""
        now = vars(self._scheduler).items()
        moved = {name: value for name, value in now if _may_have_changed(value, self._at_first.get(name, _NEW))}
        return {"latents": self._latents, "scheduler": changed(moved, lambda tensor: tensor)}

    def resume(self, state: Mapping[str, Any]) -> None:
        device = self._latents.device

        def back(tensor: torch.Tensor) -> torch.Tensor:
            # History has the shape of latents. Numbers for a step stay on the host, as timesteps and sigmas do.
            return to_device(tensor, device) if tensor.ndim >= self._latents.ndim - 1 else tensor

        self._latents = to_device(state["latents"], device)
        vars(self._scheduler).update(changed(dict(state["scheduler"]), back))

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


_NEW = object()
"""What an attribute was before there was one."""


def _may_have_changed(value: Any, at_first: Any) -> bool:
    return value is not at_first or isinstance(value, list)


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
