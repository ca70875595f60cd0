"""The names of schedulers, and how each is built for one model.

Knows diffusers' scheduler classes and what pipelines do to their configuration. Knows no samples.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import torch

from worker.models.families import Family

Overrides = dict[str, Any]

SHORT_NAMES: dict[str, tuple[str, Overrides]] = {
    "ddim": ("DDIMScheduler", {}),
    # eta = 1, where DDIM becomes as stochastic as DDPM (Song et al. 2021).
    "ddim_eta1": ("DDIMScheduler", {}),
    # The model's own variance_type may be one that only its own class understands.
    "ddpm": ("DDPMScheduler", {"variance_type": "fixed_small"}),
    # Without the Runge-Kutta warm-up, as Stable Diffusion's own configuration has it.
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {"use_karras_sigmas": False}),
    "lms_karras": ("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {"use_karras_sigmas": False}),
    "kdpm2": ("KDPM2DiscreteScheduler", {"use_karras_sigmas": False}),
    "kdpm2_a": ("KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    # The multistep SDE solver, elsewhere called dpmpp_2m_sde; the single-step one with Brownian noise needs torchsde.
    "dpmpp_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "dpmpp_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {"solver_order": 2, "lower_order_final": True}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "sa_solver": ("SASolverScheduler", {"algorithm_type": "data_prediction"}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
DPM_SOLVER = {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}
CLASS_NAMES = tuple(dict.fromkeys(cls for cls, _ in SHORT_NAMES.values()))

TRIED_STEPS = 4
"""Enough for every one of these schedulers, and quick."""

STEP_OPTIONS: dict[str, dict[str, float]] = {"ddim_eta1": {"eta": 1.0}}


def configured(scheduler: Any, family: Family) -> Any:
    """The same scheduler, with what the family's pipeline rewrites in it: also for schedulers of another class, which
    are made from its configuration and may understand more of that."""
    # from_config forgets what was not said in a scheduler's own configuration.
    unsaid = [name for name in scheduler.config.get("_use_default_values", ()) if name not in family.rewritten]
    scheduler.register_to_config(**family.rewritten, _use_default_values=unsaid)
    return scheduler


def for_name(model_scheduler: Any, name: str) -> Any:
    """A new diffusers scheduler, configured as it would be inside a stock pipeline made with it.

    `model_scheduler` is the model's, as `configured` returns it. `name` is a short name or a diffusers class name; a
    class name changes nothing in the configuration. Raises ValueError for a name that is neither.
    """
    cls, options = _configuration(name)
    return cls.from_config(model_scheduler.config, **options)


def step_options(name: str) -> dict[str, float]:
    """What to step the scheduler of that name with, as far as its `step` takes it.

    As StableDiffusionPipeline does, eta is 0 for every scheduler that has one, TCD included, unless the name says more.
    """
    return {"eta": 0.0} | STEP_OPTIONS.get(name, {})


def names_for(model_scheduler: Any) -> tuple[str, ...]:
    """The short names and class names that work with this model."""
    return tuple(step_limits(model_scheduler, max_steps=TRIED_STEPS))


def works(model_scheduler: Any, name: str) -> bool:
    """Does the scheduler of that name work with this model?"""
    return _limits(model_scheduler, name, TRIED_STEPS) is not None


def step_limits(model_scheduler: Any, *, max_steps: int) -> dict[str, tuple[int, int]]:
    """For each name that works with this model, the fewest and the most steps, up to `max_steps`, that it takes.

    Found by trying on a small tensor. A name drops out if it cannot follow the model's prediction_type, or needs a
    package that is not installed. LCM and TCD have no more steps than they were distilled for; PNDM needs four for its
    Runge-Kutta start.
    """
    limits: dict[str, tuple[int, int] | None] = {}
    found: dict[str, tuple[int, int] | None] = {}
    for name in (*SHORT_NAMES, *CLASS_NAMES):
        cls, options = _configuration(name)
        # Several names may mean the same, and some schedulers take a fifth of a second to make.
        meaning = repr((cls, sorted({**model_scheduler.config, **options}.items(), key=str)))
        if meaning not in found:
            found[meaning] = _limits(model_scheduler, name, max_steps)
        limits[name] = found[meaning]
    return {name: limit for name, limit in limits.items() if limit is not None}


def _configuration(name: str) -> tuple[Any, Overrides]:
    """The class, and what differs from the model's own configuration."""
    class_name, overrides = _meaning(name)
    cls = getattr(diffusers, class_name)
    understood = inspect.signature(cls).parameters
    return cls, {k: v for k, v in overrides.items() if k in understood}


def _meaning(name: str) -> tuple[str, Overrides]:
    if name in SHORT_NAMES:
        class_name, overrides = SHORT_NAMES[name]
        return class_name, {**DPM_SOLVER, **overrides} if class_name.startswith("DPMSolver") else overrides
    if name in CLASS_NAMES:
        return name, {}
    raise ValueError(f"The scheduler {name!r} is unknown; take one of {', '.join(SHORT_NAMES)}.")


def _limits(model_scheduler: Any, name: str, max_steps: int) -> tuple[int, int] | None:
    """None if it does not work. Schedulers refuse what they cannot do in many ways."""
    try:
        scheduler = for_name(model_scheduler, name)
        if not _works(scheduler):
            return None
    except (ImportError, ValueError, NotImplementedError, RuntimeError, IndexError, TypeError):
        return None
    fewest = next(steps for steps in range(1, TRIED_STEPS + 1) if _takes(scheduler, steps))
    if _takes(scheduler, max_steps):
        return fewest, max_steps
    takes, refuses = fewest, max_steps
    while refuses - takes > 1:
        middle = (takes + refuses) // 2
        takes, refuses = (middle, refuses) if _takes(scheduler, middle) else (takes, middle)
    return fewest, takes


def _works(scheduler: Any) -> bool:
    """A few steps of a model that always answers zero end with numbers."""
    scheduler.set_timesteps(TRIED_STEPS)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    chance = {"generator": torch.Generator().manual_seed(0)} if draws else {}
    x = torch.ones(1, 1, 2, 2) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)
        x = scheduler.step(torch.zeros_like(x), t, x, return_dict=False, **chance)[0]
    return math.isfinite(float(x.sum()))


def _takes(scheduler: Any, num_inference_steps: int) -> bool:
    """`scheduler` is only asked: setting timesteps starts it anew each time."""
    try:
        scheduler.set_timesteps(num_inference_steps)
    except (ValueError, IndexError, RuntimeError, ZeroDivisionError):
        return False
    return True
