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
from threading import Lock
from typing import Any, Protocol

import numpy as np
import structlog
import torch

from worker.engine.compile import NotAffine, compile_table
from worker.engine.errors import GenerationFailed
from worker.engine.estimate import x0_coefficients
from worker.engine.stepping import LATENT_CHANNELS, at_steps, rehearse, scaled, takes, understood
from worker.engine.table import Table
from worker.models import schedulers

log = structlog.get_logger()

TABLES = 256
"""Compiled solvers that are remembered. One of fifty steps takes some 10 kB."""


NEAR = 5
"""How far from a number of steps that cannot be another one is looked for."""


class Solver(Protocol):
    """One sample's way from noise to latents, through the registers of its seat: float32 [registers + x0, C, h, w]."""

    table: Table

    def begin(self, registers: torch.Tensor, noise: torch.Tensor) -> None:
        """Fill the registers from standard normal noise [C, h, w]."""
        ...

    def settle(self, registers: torch.Tensor, i: int, generator: torch.Generator) -> None:
        """What the table leaves to do after evaluation i. Must be called once for each i, in order."""
        ...

    def latents(self, registers: torch.Tensor) -> torch.Tensor:
        """The latents as they stand, [C, h, w]."""
        ...


class TableSolver:
    """The table says it all."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def begin(self, registers: torch.Tensor, noise: torch.Tensor) -> None:
        registers.zero_()
        registers[0] = noise * self.table.init_noise_sigma

    def settle(self, registers: torch.Tensor, i: int, generator: torch.Generator) -> None:
        pass

    def latents(self, registers: torch.Tensor) -> torch.Tensor:
        return registers[0]


class ObjectSolver:
    """A private copy of a diffusers scheduler: right for any of them, at the price of many small kernels a step.

    Its table only passes on the model's guided output, into register 1; the model's next input is put into register 0.
    """

    def __init__(
        self, scheduler: Any, num_inference_steps: int, options: Mapping[str, Any], device: torch.device
    ) -> None:
        self._scheduler = at_steps(scheduler, num_inference_steps, device)
        self._timesteps: torch.Tensor = self._scheduler.timesteps
        self._options = options
        self._draws = "generator" in inspect.signature(self._scheduler.step).parameters
        self._latents: torch.Tensor
        self.table = _pass_on(self._scheduler)

    def begin(self, registers: torch.Tensor, noise: torch.Tensor) -> None:
        registers.zero_()
        self._latents = noise[None] * self.table.init_noise_sigma
        registers[0] = scaled(self._scheduler, self._latents, self._timesteps[0])[0]

    def settle(self, registers: torch.Tensor, i: int, generator: torch.Generator) -> None:
        chance = {"generator": generator} if self._draws else {}
        t, m = self._timesteps[i], registers[1:2].clone()
        self._latents = self._scheduler.step(m, t, self._latents, return_dict=False, **self._options, **chance)[0]
        if i + 1 < len(self._timesteps):
            registers[0] = scaled(self._scheduler, self._latents, self._timesteps[i + 1])[0]

    def latents(self, registers: torch.Tensor) -> torch.Tensor:
        return self._latents[0]


class Recipe:
    """Makes the solvers of one scheduler at one number of steps. Thread-safe.

    Raises whatever the scheduler raises if it cannot bring a picture of `channels` to its end in so many steps.
    """

    def __init__(self, scheduler: Any, num_inference_steps: int, options: Mapping[str, Any], channels: int) -> None:
        self._parts = scheduler, num_inference_steps, options
        self.description = {"class": type(scheduler).__name__} | _said(scheduler) | dict(options)
        self.table: Table | None = None
        try:
            self.table = compile_table(scheduler, num_inference_steps, options)
        except NotAffine as reason:
            # Rather than in the middle of somebody's picture.
            rehearse(scheduler, num_inference_steps, options, channels=channels)
            log.info("stepping a scheduler object", scheduler=type(scheduler).__name__, reason=str(reason))

    def solver(self, device: torch.device) -> Solver:
        return ObjectSolver(*self._parts, device) if self.table is None else TableSolver(self.table)


class Solvers:
    """Recipes by the name of their scheduler, in the configuration that belongs to one model, compiled only once."""

    def __init__(
        self, model_scheduler: Any, compiler: Executor | None = None, *, channels: int = LATENT_CHANNELS
    ) -> None:
        self._model_scheduler = model_scheduler
        self._channels = channels
        self._compiler = compiler
        self._lock = Lock()
        self._recipes: OrderedDict[str, Future[Recipe]] = OrderedDict()
        self._prototypes: dict[str, Any] = {}

    def recipe(self, name: str, num_inference_steps: int) -> Future[Recipe]:
        """Compiled by the executor, or at once by the caller where there is none.

        The future raises GenerationFailed for an unknown name, or a number of steps that this scheduler cannot take.
        """
        try:
            scheduler, options = self._prototype(name), schedulers.step_options(name)
        except (ValueError, ImportError) as error:
            return _failed(GenerationFailed(str(error)))
        key = json.dumps([type(scheduler).__name__, dict(scheduler.config), options, num_inference_steps], default=str)
        with self._lock:
            known = self._recipes.get(key)
            future = self._recipes[key] = known or Future()
            self._recipes.move_to_end(key)
            if len(self._recipes) > TABLES:
                self._recipes.popitem(last=False)
        if known is None:
            run = _at_once if self._compiler is None else self._compiler.submit
            run(_compile, future, name, scheduler, num_inference_steps, options, self._channels)
        return future

    def _prototype(self, name: str) -> Any:
        """Some schedulers take a fifth of a second to make. It is copied before it is stepped."""
        if name not in self._prototypes:
            self._prototypes[name] = schedulers.for_name(self._model_scheduler, name)
        return self._prototypes[name]


def _compile(
    future: Future[Recipe], name: str, scheduler: Any, steps: int, options: Mapping[str, Any], channels: int
) -> None:
    try:
        future.set_result(Recipe(scheduler, steps, understood(scheduler, options), channels))
    except Exception as error:
        advice = _advice(scheduler, steps, options, channels)
        reason = str(error).rstrip(".") or type(error).__name__
        refusal = GenerationFailed(
            f"The scheduler {name} cannot take {steps} steps with this model ({reason}); {advice}."
        )
        refusal.__cause__ = error
        future.set_exception(refusal)


def _advice(scheduler: Any, steps: int, options: Mapping[str, Any], channels: int) -> str:
    """What would work instead: the nearest numbers of steps, as tried."""
    near = [steps + off for off in range(-NEAR, NEAR + 1) if off and steps + off > 0]
    fit = [other for other in near if takes(scheduler, other, options, channels=channels)]
    nearest = sorted(sorted(fit, key=lambda other: abs(other - steps))[:2])
    return f"{' or '.join(map(str, nearest))} will do" if nearest else "take another scheduler"


def _at_once(call: Callable[..., None], *arguments: Any) -> None:
    call(*arguments)


def _failed(error: GenerationFailed) -> Future[Recipe]:
    future: Future[Recipe] = Future()
    future.set_exception(error)
    return future


def _said(scheduler: Any) -> dict[str, Any]:
    """The configuration as JSON has it: without what is diffusers' own or the class has no use for, and without
    infinities, which mean that there is no bound."""
    unsaid, used = (None, math.inf, -math.inf), inspect.signature(type(scheduler)).parameters
    return {name: value for name, value in scheduler.config.items() if name in used and value not in unsaid}


def _pass_on(scheduler: Any) -> Table:
    timesteps = scheduler.timesteps.cpu().double().numpy().astype(np.float32)
    count, ones = len(timesteps), np.ones(len(timesteps), np.float32)
    matrices = np.zeros((count, 2, 4), np.float32)
    matrices[:, 1, 2] = 1
    return Table(
        matrices=matrices,
        estimates=x0_coefficients(scheduler, timesteps, ones),
        input_scale=ones,
        timesteps=timesteps,
        draws=(False,) * count,
        init_noise_sigma=float(getattr(scheduler, "init_noise_sigma", 1.0)),
    )
