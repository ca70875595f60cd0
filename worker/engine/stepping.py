"""A diffusers scheduler by itself: prepared for a number of steps, stepped, and tried on a small picture.

Knows diffusers' scheduler interface. Knows no names of schedulers and no model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from worker.engine.errors import is_out_of_memory

LATENT_CHANNELS = 4
"""Of Stable Diffusion. A scheduler for learned variances takes three of them for the picture, and fails only then."""

LEARNED = ("learned", "learned_range")
"""Types of variance that a model predicts (Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic
Models")."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where on its way a scheduler begins: the sooner, the less is left of what it begins with.

    `index`: the first of its timesteps that is evaluated, as a pipeline that starts from a picture has it
    (`get_timesteps` in diffusers). `strength`: what set_timesteps is told, where the pipeline has all of its steps on
    the rest of the way instead: LatentConsistencyModelImg2ImgPipeline does. `end`: the first timestep that is left to
    another pass, where one network takes only a part of the way; None for all of the rest.
    """

    index: int = 0
    strength: float | None = None
    end: int | None = None


FROM_NOISE = Beginning()
"""All of the way."""


def understood(scheduler: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that this scheduler's `step` takes."""
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in options.items() if name in accepted}


def arguments(
    scheduler: Any, options: Mapping[str, Any], place: int, generator: torch.Generator | None = None
) -> dict[str, Any]:
    """What its `step` is called with beside output, timestep and sample, at that place among its timesteps: as far as
    it takes them, the options, the generator, and the timestep that follows, None behind the last one. A scheduler that
    is not told (UnCLIPScheduler) steps to the number before."""
    following = scheduler.timesteps[place + 1] if place + 1 < len(scheduler.timesteps) else None
    given = {**options, "prev_timestep": following, "generator": generator, "return_dict": False}
    return understood(scheduler, given)


def reads_variance(scheduler: Any) -> bool:
    """Does its `step` want what the model says of the variance, in the channels behind its output? Those that do keep
    the type as an attribute of their own; in others' configurations it may only be left over from another class."""
    return vars(scheduler).get("variance_type") in LEARNED


def at_steps(scheduler: Any, num_inference_steps: int, *, beginning: Beginning = FROM_NOISE) -> Any:
    """A copy with its timesteps set, ready for its first step. Those that are stepped are `evaluated`.

    Raises whatever the scheduler raises for a number of steps that it cannot take.
    """
    own = copy.deepcopy(scheduler)
    strength = {} if beginning.strength is None else {"strength": beginning.strength}
    own.set_timesteps(num_inference_steps, device="cpu", **strength)
    if hasattr(own, "set_begin_index"):
        # Left to itself it looks its place up by the timestep. Where the first timestep stands twice, as with Karras
        # sigmas on models with zero terminal SNR, it begins at the second and fails at the end.
        own.set_begin_index(beginning.index)
    return own


def evaluated(scheduler: Any, beginning: Beginning) -> torch.Tensor:
    """The timesteps that a scheduler of `at_steps` is stepped through. All of them stay set: some schedulers count
    their place among them."""
    timesteps: torch.Tensor = scheduler.timesteps[beginning.index : beginning.end]
    return timesteps


def scaled(scheduler: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The model's input. Schedulers of flow models scale nothing, and have no method for it."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def rehearse(
    scheduler: Any,
    num_inference_steps: int,
    options: Mapping[str, Any],
    *,
    channels: int = LATENT_CHANNELS,
    predicts_variance: bool = False,
    beginning: Beginning = FROM_NOISE,
) -> None:
    """Step a copy to its end, with a small picture and a model that answers something, and says something of the
    variance if it `predicts_variance`.

    Raises whatever the scheduler raises, and ArithmeticError if what it ends with are no numbers.
    """
    own = at_steps(scheduler, num_inference_steps, beginning=beginning)
    noise = torch.Generator().manual_seed(0)
    x = torch.randn((1, channels, 2, 2), generator=noise) * float(getattr(own, "init_noise_sigma", 1.0))
    for i, t in enumerate(evaluated(own, beginning)):
        m = torch.tanh(scaled(own, x, t))
        if predicts_variance and reads_variance(own):
            m = torch.cat([m, m], 1)
        x = own.step(m, t, x, **arguments(own, options, beginning.index + i, noise))[0]
    if not bool(x.isfinite().all()):
        raise ArithmeticError("its numbers end in infinity or NaN")


def takes(
    scheduler: Any,
    num_inference_steps: int,
    options: Mapping[str, Any],
    *,
    channels: int,
    predicts_variance: bool = False,
    beginning: Beginning = FROM_NOISE,
) -> bool:
    """Does a picture of so many steps come to its end? Schedulers refuse what they cannot do in many ways.

    Raises what says that memory is full: that says nothing about a scheduler.
    """
    try:
        rehearse(
            scheduler,
            num_inference_steps,
            options,
            channels=channels,
            predicts_variance=predicts_variance,
            beginning=beginning,
        )
    except Exception as reason:
        if is_out_of_memory(reason):
            raise
        return False
    return True
