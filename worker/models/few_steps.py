"""Distilled models, which draw in a few steps and without guidance: how a folder shows that it holds one.

With thirty steps and guidance 7.5 their pictures are burnt. Knows scheduler classes, the words of names and what the
authors recommend. Knows no weights and imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FewSteps:
    """What such a model wants. `because` says what gave it away."""

    num_inference_steps: int
    guidance_scale: float
    because: str


BY_SCHEDULER: Mapping[str, tuple[int, float]] = {
    # Luo et al. 2023; diffusers' page on LCM-LoRA: 4 to 8 steps, guidance 1 to 2.
    "LCMScheduler": (4, 1.0),
    "lcm": (4, 1.0),
    # Zheng et al. 2024: 4 steps, guidance 0.
    "TCDScheduler": (4, 0.0),
    "tcd": (4, 0.0),
}
"""Nobody saves another kind of model with these, or makes them its default."""

BY_WORD: Mapping[str, tuple[int, float]] = {
    # Sauer et al. 2023 (sd-turbo, sdxl-turbo): 1 to 4 steps, guidance 0. Their schedulers are plain Euler ones.
    r"turbo": (4, 0.0),
    # Lin et al. 2024: 2, 4 or 8 steps, each of its own weights, guidance 0.
    r"lightning": (4, 0.0),
    # Ren et al. 2024: 1 to 8 steps of the unified weights.
    r"hyper[-_]?sd": (8, 0.0),
    r"(?<![a-z])lcm(?![a-z])": (4, 1.0),
}

_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?")


def few_steps(schedulers: Sequence[str], names: Sequence[str]) -> FewSteps | None:
    """What the model wants, if it is known to be distilled: by its scheduler's class, by the default that the folder
    states, or by a word in one of its names, which may also say how many steps."""
    for scheduler in schedulers:
        if scheduler in BY_SCHEDULER:
            return FewSteps(*BY_SCHEDULER[scheduler], because=f"its scheduler is {scheduler}")
    for name in map(str.lower, names):
        for word, (steps, guidance) in BY_WORD.items():
            if re.search(word, name):
                said = _STEPS.search(name)
                return FewSteps(int(said[1]) or steps if said else steps, guidance, because=f"it is called {name}")
    return None


def may_be_turbo(scheduler: str, config: Mapping[str, Any]) -> bool:
    """Turbo models come with Euler and trailing timesteps; so do others, but those were made for zero terminal SNR."""
    is_euler = scheduler.startswith("Euler")
    return is_euler and config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")


def tell(found: FewSteps | None, chosen: Mapping[str, Any], *, is_stated: bool, may_be: bool) -> None:
    """One line at the start about the defaults, and how to change them. Silent where the folder states them itself."""
    if is_stated:
        return
    values = {name: chosen[name] for name in ("num_inference_steps", "guidance_scale", "scheduler")}
    where = "darkroom.json beside model_index.json"
    if found is not None:
        log.info("defaults for few steps", **values, because=found.because, remedy=f"others go into {where}")
    elif may_be:
        remedy = f'if it is one, write {{"num_inference_steps": 4, "guidance_scale": 0.0}} into {where}'
        log.warning("this may be a turbo model, for which these defaults are too much", **values, remedy=remedy)
    else:
        log.info("usual defaults", **values, remedy=f"others go into {where}")
