"""Solvers: what turns the model's output into the next latents, for one sample and one number of steps.

Knows diffusers' scheduler interface. Knows nothing of prompts, guidance or neighbours.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, Protocol

import torch

from worker.engine.errors import GenerationFailed
from worker.models import schedulers


class Solver(Protocol):
    """One sample's way from noise to latents. Tensors are float32 [1, C, h, w] on the model's device."""

    @property
    def timesteps(self) -> torch.Tensor:
        """One timestep for each model evaluation, float32 [evaluations]."""
        ...

    @property
    def init_noise_sigma(self) -> float:
        """What the initial standard normal latents are multiplied by."""
        ...

    def scale(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """The model's input at evaluation i. May be repeated."""
        ...

    def step(self, model_output: torch.Tensor, i: int, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The latents after evaluation i. Must be called once for each i, in order."""
        ...


class ObjectSolver:
    """A private copy of a diffusers scheduler: right for any scheduler, at the price of many small kernels a step."""

    def __init__(self, scheduler: Any, num_inference_steps: int, device: torch.device) -> None:
        self._scheduler = copy.deepcopy(scheduler)
        self._scheduler.set_timesteps(num_inference_steps, device=device)
        self.timesteps: torch.Tensor = self._scheduler.timesteps.to(torch.float32)
        self.init_noise_sigma = float(self._scheduler.init_noise_sigma)
        accepted = inspect.signature(self._scheduler.step).parameters
        # As StableDiffusionPipeline does: eta is 0 for every scheduler that has one, TCD included.
        self._options = {"eta": 0.0} if "eta" in accepted else {}
        self._draws = "generator" in accepted

    def scale(self, x: torch.Tensor, i: int) -> torch.Tensor:
        return self._scheduler.scale_model_input(x, self._scheduler.timesteps[i])

    def step(self, model_output: torch.Tensor, i: int, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        chance = {"generator": generator} if self._draws else {}
        t = self._scheduler.timesteps[i]
        return self._scheduler.step(model_output, t, x, return_dict=False, **self._options, **chance)[0]


class Solvers:
    """Makes solvers by the name of their scheduler, in the configuration that belongs to one model."""

    def __init__(self, model_scheduler: Any, device: torch.device) -> None:
        self._model_scheduler = model_scheduler
        self._device = device
        self._prototypes: dict[str, Any] = {}

    def make(self, name: str, num_inference_steps: int) -> Solver:
        """Raises GenerationFailed for an unknown name, or a number of steps that this scheduler cannot take."""
        try:
            return ObjectSolver(self._prototype(name), num_inference_steps, self._device)
        except (ValueError, IndexError) as error:
            raise GenerationFailed(f"The scheduler {name} cannot take {num_inference_steps} steps: {error}") from error

    def _prototype(self, name: str) -> Any:
        if name not in self._prototypes:
            try:
                self._prototypes[name] = schedulers.for_name(self._model_scheduler, name)
            except ValueError as error:
                raise GenerationFailed(str(error)) from error
        return self._prototypes[name]
