"""A diffusers scheduler by itself: prepared for a number of steps, stepped, and tried on a small picture.

Knows diffusers' scheduler interface. Knows no names of schedulers and no model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from worker.engine.errors import is_out_of_memory

LATENT_CHANNELS = 4
"""Of Stable Diffusion. A scheduler for learned variances takes three of them for the picture, and fails only then."""


def understood(scheduler: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that this scheduler's `step` takes."""
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in options.items() if name in accepted}


def at_steps(scheduler: Any, num_inference_steps: int, device: torch.device | str = "cpu") -> Any:
    """A copy with its timesteps set, ready for its first step.

    Raises whatever the scheduler raises for a number of steps that it cannot take.
    """
    own = copy.deepcopy(scheduler)
    own.set_timesteps(num_inference_steps, device=device)
    if hasattr(own, "set_begin_index"):
        # Left to itself it looks its place up by the timestep. Where the first timestep stands twice, as with Karras
        # sigmas on models with zero terminal SNR, it begins at the second and fails at the end.
        own.set_begin_index(0)
    return own


def scaled(scheduler: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The model's input. Schedulers of flow models scale nothing, and have no method for it."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def rehearse(
    scheduler: Any, num_inference_steps: int, options: Mapping[str, Any], *, channels: int = LATENT_CHANNELS
) -> None:
    """Step a copy to its end, with a small picture and a model that answers something.

    Raises whatever the scheduler raises, and ArithmeticError if what it ends with are no numbers.
    """
    own = at_steps(scheduler, num_inference_steps)
    noise = torch.Generator().manual_seed(0)
    chance = {"generator": noise} if "generator" in inspect.signature(own.step).parameters else {}
    x = torch.randn((1, channels, 2, 2), generator=noise) * float(getattr(own, "init_noise_sigma", 1.0))
    for t in own.timesteps:
        m = torch.tanh(scaled(own, x, t))
        x = own.step(m, t, x, return_dict=False, **understood(own, options), **chance)[0]
    if not bool(x.isfinite().all()):
        raise ArithmeticError("its numbers end in infinity or NaN")


def takes(scheduler: Any, num_inference_steps: int, options: Mapping[str, Any], *, channels: int) -> bool:
    """Does a picture of so many steps come to its end? Schedulers refuse what they cannot do in many ways.

    Raises what says that memory is full: that says nothing about a scheduler.
    """
    try:
        rehearse(scheduler, num_inference_steps, options, channels=channels)
    except Exception as reason:
        if is_out_of_memory(reason):
            raise
        return False
    return True
