"""How each scheduler of the table is built for one model, prepared, and tried before anybody is promised it.

Knows diffusers' scheduler interface and what pipelines do to a scheduler's configuration. Knows no samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import diffusers
import structlog

from app.contract.messages.schedulers import CLASS_NAMES, OWN_CLASS_NAMES, SCHEDULERS, canonical, nearest
from worker.engine.errors import is_out_of_memory
from worker.engine.stepping import LATENT_CHANNELS, LEARNED, reads_variance, rehearse, takes
from worker.models.errors import ModelError
from worker.models.pipeline import Pipeline

log = structlog.get_logger()

FEW = (1, 4, 10, 25)
"""Numbers of steps at which each scheduler is tried, besides the most. Of those that failed on zero terminal SNR, each
failed at one of them."""

FEWEST_AT_MOST = 4
"""Steps that every scheduler should take: PNDM needs so many for its Runge-Kutta start, others fewer."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The fewest and the most steps that a scheduler takes, and those between that it does not."""

    fewest: int
    most: int
    refused: tuple[int, ...] = ()


def configured(scheduler: Any, pipeline: Pipeline) -> Any:
    """The same scheduler, with what the pipeline rewrites in it: also for schedulers of another class, which
    are made from its configuration and may understand more of that."""
    # from_config forgets what was not said in a scheduler's own configuration.
    unsaid = [name for name in scheduler.config.get("_use_default_values", ()) if name not in pipeline.rewritten]
    scheduler.register_to_config(**pipeline.rewritten, _use_default_values=unsaid)
    return scheduler


def for_name(model_scheduler: Any, name: str) -> Any:
    """A new diffusers scheduler, configured as it would be inside a stock pipeline made with it.

    `model_scheduler` is the model's, as `configured` returns it. `name` is one of the table's in anybody's words; a
    class name changes nothing in the configuration. Raises ValueError for a name that is not in it.
    """
    cls, options = _configuration(name)
    made = cls.from_config(model_scheduler.config, **options)
    if made.config.get("variance_type") in LEARNED and not reads_variance(made):
        # Left over from a model whose own scheduler reads it. DPM++ would drop channels for it.
        made.register_to_config(variance_type=None)
    return made


def step_options(name: str) -> dict[str, float]:
    """What to step the scheduler of that name with, as far as its `step` takes it.

    As StableDiffusionPipeline does, eta is 0 for every scheduler that has one, TCD included, unless the name says more.
    """
    scheduler = SCHEDULERS.get(_known(name))
    return {"eta": scheduler.eta if scheduler else 0.0}


def works(model_scheduler: Any, name: str, classes: Collection[str] = (), *, predicts_variance: bool = False) -> bool:
    """Does the scheduler of that name work with this model, whose pipeline takes these `classes`?"""
    trial = _Trial(model_scheduler, max(FEW), LATENT_CHANNELS, predicts_variance)
    return trial.limits(name) is not None and _is_of(name, classes)


def step_limits(
    model_scheduler: Any,
    *,
    max_steps: int,
    channels: int = LATENT_CHANNELS,
    predicts_variance: bool = False,
    classes: Collection[str] = (),
) -> dict[str, StepLimits]:
    """For each name that works with this model, the numbers of steps, up to `max_steps`, that it takes: of all names,
    or of those for the `classes` that the model's pipeline takes.

    Found by trying on a small picture of as many channels as the model's, and a variance where it predicts one. A name
    drops out if it cannot follow the model's prediction_type, needs a package that is not installed, or fails in any
    other way. LCM and TCD have no more steps than they were distilled for; PNDM needs four for its Runge-Kutta start.
    """
    limits: dict[str, StepLimits | None] = {}
    found: dict[str, StepLimits | None] = {}
    trial = _Trial(model_scheduler, max_steps, channels, predicts_variance)
    for name in filter(lambda name: _is_of(name, classes), (*SCHEDULERS, *CLASS_NAMES, *OWN_CLASS_NAMES)):
        # Several names may mean the same, and some schedulers take a fifth of a second to make.
        meaning = _what_it_means(model_scheduler, name)
        if meaning not in found:
            found[meaning] = trial.limits(name)
        limits[name] = found[meaning]
    return {name: limit for name, limit in limits.items() if limit is not None}


def fewest_steps(scheduler: Any) -> int:
    """That a scheduler takes as it is, such as a prior's. UnCLIPScheduler divides by one less."""
    few = range(1, FEWEST_AT_MOST + 1)
    return next((steps for steps in few if takes(scheduler, steps, {}, channels=LATENT_CHANNELS)), 1)


def _what_it_means(model_scheduler: Any, name: str) -> str:
    """Class and configuration, as from_config will find them, without making one."""
    cls, options = _configuration(name)
    unsaid = model_scheduler.config.get("_use_default_values", ())
    said = {key: value for key, value in model_scheduler.config.items() if key not in unsaid} | options
    parameters = inspect.signature(cls).parameters
    return repr((cls, step_options(name), {key: said.get(key, own.default) for key, own in parameters.items()}))


def _is_of(name: str, classes: Collection[str]) -> bool:
    """Without `classes`, of those that any pipeline may take."""
    return _configuration(name)[0].__name__ in classes if classes else name not in OWN_CLASS_NAMES


def _configuration(name: str) -> tuple[Any, dict[str, Any]]:
    """The class, and what differs from the model's own configuration."""
    known = _known(name)
    scheduler = SCHEDULERS.get(known)
    cls = getattr(diffusers, scheduler.cls if scheduler else known)
    parameters = inspect.signature(cls).parameters
    options = scheduler.options if scheduler else {}
    return cls, {option: value for option, value in options.items() if option in parameters}


def _known(name: str) -> str:
    known = canonical(name)
    if known is None:
        close = " or ".join(nearest(name, SCHEDULERS)) or f"one of {', '.join(SCHEDULERS)}"
        raise ValueError(f"The scheduler {name!r} is unknown; take {close}.")
    return known


@dataclass(frozen=True, slots=True)
class _Trial:
    """Of schedulers with one model, whose pictures have so many `channels`."""

    model_scheduler: Any
    max_steps: int
    channels: int
    predicts_variance: bool

    def limits(self, name: str) -> StepLimits | None:
        """None if it does not work."""
        try:
            scheduler, options = for_name(self.model_scheduler, name), step_options(name)
            most = _most(scheduler, self.max_steps)
            tried = {steps: self._takes(scheduler, steps, options) for steps in {*FEW, most} if steps <= most}
            if not any(tried.values()):
                # For its reason.
                rehearse(
                    scheduler,
                    min(max(FEW), most),
                    options,
                    channels=self.channels,
                    predicts_variance=self.predicts_variance,
                )
            elif not all(tried.values()):
                # Too few steps for it, or a fault in between: only trying each tells.
                end = FEWEST_AT_MOST if all(took for steps, took in tried.items() if steps >= FEWEST_AT_MOST) else most
                tried |= {steps: self._takes(scheduler, steps, options) for steps in range(1, end + 1)}
        except Exception as reason:
            _raise_for_memory(reason)
            log.info("scheduler left out", scheduler=name, reason=repr(reason))
            return None
        taken = sorted(steps for steps in tried if tried[steps])
        refused = tuple(steps for steps in sorted(tried) if not tried[steps] and taken[0] < steps < taken[-1])
        return StepLimits(taken[0], taken[-1], refused)

    def _takes(self, scheduler: Any, steps: int, options: dict[str, float]) -> bool:
        return takes(scheduler, steps, options, channels=self.channels, predicts_variance=self.predicts_variance)


def _raise_for_memory(reason: Exception) -> None:
    """A full memory says nothing about a scheduler, and verdicts are remembered."""
    if is_out_of_memory(reason):
        raise ModelError("Memory was full when schedulers were tried; free some and start again.") from reason


def _most(scheduler: Any, max_steps: int) -> int:
    """The most steps that its timesteps can be set to, up to `max_steps`. Raises what it raises if it takes none."""
    if _can_be_set(scheduler, max_steps):
        return max_steps
    fits, refuses = next((steps for steps in FEW if _can_be_set(scheduler, steps)), 0), max_steps
    if not fits:
        scheduler.set_timesteps(max_steps)
    while refuses - fits > 1:
        middle = (fits + refuses) // 2
        fits, refuses = (middle, refuses) if _can_be_set(scheduler, middle) else (fits, middle)
    return fits


def _can_be_set(scheduler: Any, num_inference_steps: int) -> bool:
    """`scheduler` is only asked: setting timesteps starts it anew each time."""
    try:
        scheduler.set_timesteps(num_inference_steps)
    except Exception:
        return False
    return True
