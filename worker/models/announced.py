"""What a worker announces of the model it has loaded: its card.

Knows the model in memory, and which sizes and schedulers work with it. Refuses to know whom it is announced to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import structlog

from app.contract.messages.card import Adapter, ModelCard, Safety
from worker.models.bundle import Bundle
from worker.models.pipelines import PIPELINES
from worker.models.quiet import quiet_libraries
from worker.models.schedulers import StepLimits, fewest_steps, step_limits

log = structlog.get_logger()


def describe(
    bundle: Bundle,
    *,
    seats: int,
    largest: float = math.inf,
    limits: Mapping[str, StepLimits] | None = None,
    safety: Safety = "off",
) -> ModelCard:
    """What the worker announces. `largest` is the size of the largest picture that there is memory for, in native
    ones: what can never be drawn is refused where it is asked for. `limits` are of the schedulers that work; they are
    tried if missing. `safety`: what becomes of pictures that the model's safety checker flags.
    """
    defaults = bundle.defaults.model_dump() | {"max_side": _most_side(bundle, largest), "vocabulary": bundle.vocabulary}
    most = bundle.defaults.max_steps
    limits = step_limits_of(bundle) if limits is None else limits
    return ModelCard(
        name=bundle.name,
        family=bundle.family,
        sha256=bundle.sha256,
        side_multiple=bundle.side_multiple,
        schedulers=tuple(limits),
        scheduler_min_steps={name: limit.fewest for name, limit in limits.items() if limit.fewest > 1},
        scheduler_max_steps={name: limit.most for name, limit in limits.items() if limit.most < most},
        scheduler_refused_steps={name: limit.refused for name, limit in limits.items() if limit.refused},
        tasks=bundle.tasks,
        takes=bundle.takes,
        max_clip_skip=bundle.max_clip_skip,
        classifier_free_guidance=PIPELINES[bundle.family].classifier_free_guidance,
        left_out=bundle.left_out,
        vae=bundle.vae_name,
        controls=tuple(Adapter(name=name) for name in sorted(bundle.controlnets.files)),
        max_controls=bundle.controlnets.kept,
        embeddings=tuple(bundle.embeddings),
        embedding_files={name: word.sha256 for name, word in bundle.embeddings.items()},
        loras=tuple(Adapter(name=name, words=file.trigger_words) for name, file in bundle.loras.items()),
        embedding_dimensions=bundle.embedding_dimensions,
        prior_min_steps=fewest_steps(bundle.others["prior_scheduler"]) if "prior_scheduler" in bundle.others else 1,
        max_noise_level=bundle.max_noise_level,
        safety=safety,
        max_prompt_tokens=bundle.max_prompt_tokens,
        seats=seats,
        **defaults,
    )


def step_limits_of(bundle: Bundle) -> dict[str, StepLimits]:
    """Of the schedulers that work with the model: tried, which takes seconds."""
    with quiet_libraries():
        return step_limits(
            bundle.scheduler,
            max_steps=bundle.defaults.max_steps,
            channels=bundle.latent_channels,
            predicts_variance=bundle.predicts_variance,
            classes=bundle.scheduler_classes,
        )


def _most_side(bundle: Bundle, largest: float) -> int:
    """Pixels. A square of it fits into memory, or it is the native size's."""
    defaults, multiple = bundle.defaults, bundle.side_multiple
    native, stated = max(defaults.width, defaults.height), defaults.max_side
    if largest * defaults.width * defaults.height >= stated**2:
        return stated
    side = int(math.sqrt(max(0.0, largest) * defaults.width * defaults.height)) // multiple * multiple
    most = min(stated, max(native, side))
    log.warning("larger pictures need more memory than there is", max_side=most, instead_of=stated)
    return most
