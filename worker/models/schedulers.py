"""The names of schedulers, and how each is built for one model.

Knows diffusers' scheduler classes and what StableDiffusionPipeline does to their configuration. Knows no samples.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import torch

Overrides = dict[str, Any]

SHORT_NAMES: dict[str, tuple[str, Overrides]] = {
    "ddim": ("DDIMScheduler", {}),
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

REWRITTEN_BY_THE_PIPELINE: Overrides = {"steps_offset": 1, "clip_sample": False}
"""StableDiffusionPipeline.__init__ writes these into its scheduler, whatever scheduler_config.json says. Without
them the latents are off by up to 3.9 standard deviations from the stock pipeline's."""


def for_name(model_scheduler: Any, name: str) -> Any:
    """A new diffusers scheduler, configured as it would be inside a stock pipeline made with it.

    `model_scheduler` is the pipeline's own. `name` is a short name or a diffusers class name; a class name changes
    nothing in the configuration. Raises ValueError for a name that is neither.
    """
    class_name, overrides = _meaning(name)
    cls = getattr(diffusers, class_name)
    understood = inspect.signature(cls).parameters
    options = {**REWRITTEN_BY_THE_PIPELINE, **overrides}
    return cls.from_config(model_scheduler.config, **{k: v for k, v in options.items() if k in understood})


def names_for(model_scheduler: Any) -> tuple[str, ...]:
    """The short names and class names that work with this model, found by trying each on a small tensor.

    One drops out if it cannot follow the model's prediction_type, or needs a package that is not installed.
    """
    return tuple(name for name in (*SHORT_NAMES, *CLASS_NAMES) if _works(model_scheduler, name))


def _meaning(name: str) -> tuple[str, Overrides]:
    if name in SHORT_NAMES:
        class_name, overrides = SHORT_NAMES[name]
        return class_name, {**DPM_SOLVER, **overrides} if class_name.startswith("DPMSolver") else overrides
    if name in CLASS_NAMES:
        return name, {}
    raise ValueError(f"The scheduler {name!r} is unknown; take one of {', '.join(SHORT_NAMES)}.")


def _works(model_scheduler: Any, name: str) -> bool:
    """Four steps of a model that always answers zero. Schedulers refuse what they cannot do in many ways."""
    try:
        scheduler = for_name(model_scheduler, name)
        scheduler.set_timesteps(4)
        draws = "generator" in inspect.signature(scheduler.step).parameters
        chance = {"generator": torch.Generator().manual_seed(0)} if draws else {}
        x = torch.ones(1, 1, 2, 2) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(torch.zeros_like(x), t, x, return_dict=False, **chance)[0]
    except (ImportError, ValueError, NotImplementedError, RuntimeError, IndexError, TypeError):
        return False
    return math.isfinite(float(x.sum()))
